"""A worker's life: the one reconciler loop and its hands."""
