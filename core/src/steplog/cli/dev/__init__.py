"""``steplog dev``: a parent that holds the port, watches the code, and tells what happens.

Theory of operation. The parent imports no user code. It binds the port, and starts generations: each is a process with
the functions and one with the engine, which inherits the sockets. A new generation imports the code first; only when
that worked is the old one told to stop, hands back what is in flight, closes log and lock, and ends; then the new one
opens. Connections that are made meanwhile wait in the sockets, which stay bound and are listened on all the time.
What is printed is read from the journal, as any other reader would: no run waits for a line.
"""
