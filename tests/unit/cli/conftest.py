"""The fixtures of CLI tests; what they are is in ``stage``."""

from unit.cli.stage import clean_home, hub, muster, repositories

__all__ = ["clean_home", "hub", "muster", "repositories"]
