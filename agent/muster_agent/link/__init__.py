"""The line to the coordinator."""
