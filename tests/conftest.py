"""Gives every test the rig: an engine, registries, images, a stand-in NVML."""

import signal

pytest_plugins = ("tests.rig.fixtures",)

# Started in the background of a script, a run inherits an ignored SIGINT, and so would every command
# the tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
