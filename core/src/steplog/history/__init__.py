"""What happened, as SQL: a projection of the journal, the queries over it, and the audit of the log itself.

The journal is the truth; everything here can be made from it again. The engine never reads history.
"""
