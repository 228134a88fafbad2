"""What can be seen of the agent from outside."""
