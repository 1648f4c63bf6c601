"""Starts the server; as short as possible, since a script itself is compiled at each start."""

from minilm.server import main

main()
