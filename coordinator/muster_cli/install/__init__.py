"""Joining that needs nobody at the spoke: the agent's manifest, applying it, and approving what it asks for."""
