"""Whether an object is what its author wanted it to be by now (kstatus rules)."""

from muster_core.health.kstatus import Health, health

__all__ = ["Health", "health"]
