"""Touches the world: one library a module."""
