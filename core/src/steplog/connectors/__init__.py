"""Connectors: what makes events of what happens elsewhere. Each type is a module, named in ``running.py``."""
