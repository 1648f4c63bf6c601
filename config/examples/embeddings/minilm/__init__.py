"""Sentence embeddings of all-MiniLM-L6-v2 over HTTP, on numpy and h11 alone."""
