"""The pod player: workloads become ready, or do not, by their image tag.

There is no kubelet in the lab. Owns the rule that an image tag stands for a behaviour, the player that sets workload status
inside the lab's own server, the player that sets pod status on a real API server, and the processes of the agent's own pods,
which are the real program. It never runs a container.
"""
