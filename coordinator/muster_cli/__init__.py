"""The ``muster`` command: what operators type. It reaches a coordinator by the operator API only."""
