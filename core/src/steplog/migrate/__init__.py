"""Moves a whole log to another place, with everything that is in flight (docs/decisions/0018)."""
