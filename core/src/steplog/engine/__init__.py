"""The engine: owners with durable mailboxes, decided one message at a time.

Pure and deterministic. It reads no clock, no random source, no socket and no file: time and ids come in with the
messages, state is read through the ``Table`` port, and everything that acts on the world leaves as an effect.
"""
