"""The control API: a handler parses, calls one method, renders."""
