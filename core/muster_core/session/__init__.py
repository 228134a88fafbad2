"""The session between one agent and the coordinator, without any I/O: numbering, acknowledging, coming back."""
