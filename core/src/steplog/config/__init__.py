"""Configuration: layers that are read and checked in one place; every problem is named, each value knows its origin."""
