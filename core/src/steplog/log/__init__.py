"""Logs: where turns are committed. A log only stores; it decides nothing."""
