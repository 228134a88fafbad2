"""What the place where this cluster stands allows: its window and its veto, by its own registry entry.

Owns the two questions that come before a release is looked at. What runs is healed and enforced whatever the answers are,
and a release that goes back asks only the second. It never reads a clock: ``now`` is the later of the system's and the
newest that was signed, so that a clock set back opens no window again.
"""

from __future__ import annotations

from functools import lru_cache

from muster_core.errors import JoinError, TrustError
from muster_core.kinds.model import Cluster
from muster_core.windows import Window, parse_window


@lru_cache(maxsize=16)
def _window(cron: str, duration: str, zone: str) -> Window:
    return parse_window(cron, duration, zone)


def closed_until(entry: Cluster | None, now: float) -> float | None:
    """When the site's window opens (unix seconds); None while it is open, or where there is none."""
    site = entry.spec.site if entry else None
    if site is None or site.window is None:
        return None
    window = _window(site.window.cron, site.window.duration, site.time_zone)
    return None if window.is_open(now) else window.opens_at(now)


def require_allowed(entry: Cluster, bundle: str) -> None:
    """``MUSTER-T092`` for a bundle that the site has a veto on, ``J070`` once the cluster is to be uninstalled."""
    if entry.is_leaving:
        raise JoinError(
            "J070",
            "this cluster is being removed from the fleet, so it takes no release",
            object=entry.metadata.name,
        )
    if entry.spec.site is not None and bundle in entry.spec.site.veto:
        hint = f"To take it back: muster cluster label {entry.metadata.name} --no-veto {bundle}."
        raise TrustError("T092", "the site has a veto on this bundle", object=bundle, hint=hint)
