"""The demo: an engine that is killed in the middle of its work, and the proof that nothing was lost or done twice.

``orders.py`` is what a user would write, and is in ``examples/`` too. Everything else here plays the world around it.
"""
