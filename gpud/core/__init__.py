"""Decides: pure, synchronous, no I/O."""
