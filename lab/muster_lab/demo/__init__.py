"""A whole fleet on one machine, told as a story whose every fact is checked.

Owns the demo and the pieces that only it needs: a Git host, lines that can be cut, a supervisor of processes.
It never imports the agent or the coordinator: it starts the installed programs and asks the operator API.
"""
