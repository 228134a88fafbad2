"""What every long-running program of Muster is on its machine: logs, probes, an audit log on disk, an end with a code.

Owns nothing of agents or coordinators. The layer stands above the pure core, because it does input and output.
"""
