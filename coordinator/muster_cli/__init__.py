"""The ``muster`` command: what operators type. Reaches the coordinator by its operator API and by nothing else."""
