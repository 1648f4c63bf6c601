"""A request's way: the data plane."""
