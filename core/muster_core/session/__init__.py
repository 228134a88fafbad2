"""The session between one agent and the hub, without any I/O: numbering, acknowledging, coming back."""
