"""Drivers: they carry out dispatches, and report operations."""
