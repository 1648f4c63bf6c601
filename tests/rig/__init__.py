"""Real parts the tests run against: a private engine, registries, a worker image, a stand-in NVML."""
