"""How it is joined: the dataflow, the receiver process, the demo, settings and the command line."""
