"""The cluster as the agent sees it: one port, one adapter, an executor and an observer."""
