"""Gives every test the rig: an engine, registries, images, a stand-in NVML."""

pytest_plugins = ("tests.rig.fixtures",)
