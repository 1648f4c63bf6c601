"""Work that outlives its request: the queue, its delivery to workers, and its upkeep."""
