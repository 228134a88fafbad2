"""What makes a plan one that cannot finish, or that says nothing: found before anything starts.

Owns the rules that a schema cannot say, each with the path of the field and the reason in words. The same rules serve
``validate``, where the file's line is known, and the start. It never looks at a fleet's clusters: that is ``plan``'s.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from msgspec import UnsetType

from muster_core.addresses import is_http
from muster_core.durations import parse_duration
from muster_core.errors import MusterError
from muster_core.kinds.plans import Gate, HttpCheck, PrometheusCheck, RolloutPlanSpec, Wave
from muster_core.times import parse_time
from muster_core.windows import parse_window

Path = tuple[str | int, ...]
SITE = "site"
WINDOW_FIELDS = {"V071": "timeZone", "V073": "duration", "V031": "duration"}
ONE_OF = "exactly one of approval, time, http and prometheus"


class Flaw(NamedTuple):
    """``path`` begins below ``spec``."""

    path: Path
    what: str


def flaws(spec: RolloutPlanSpec) -> Iterator[Flaw]:
    """Every flaw of a plan by itself."""
    yield from _limits(spec.max_in_flight, spec.max_failed, spec.max_lost, ())
    yield from _at_least_one(spec.rollback_max_in_flight, ("rollbackMaxInFlight",))
    yield from _at_least_one(spec.catch_up.max_in_flight, ("catchUp", "maxInFlight"))
    if spec.on_failure.scope != "target" and spec.on_failure.action != "rollback":
        yield Flaw(("onFailure", "scope"), "only action: rollback has a scope")
    for index, wave in enumerate(spec.waves):
        path: Path = ("waves", index)
        yield from _limits(wave.max_in_flight, wave.max_failed, wave.max_lost, path)
        yield from _quorum(wave, path)
        if isinstance(wave.offline.after, str) and not parse_duration(wave.offline.after):
            yield Flaw((*path, "offline", "after"), "nobody could ever acknowledge an offer in no time")
        yield from _window(wave, path)
        for phase, gates in (("before", wave.gates.before), ("after", wave.gates.after)):
            for number, gate in enumerate(gates):
                yield from _gate(gate, (*path, "gates", phase, number))
    if not parse_duration(spec.deadline):
        yield Flaw(("deadline",), "nobody could ever become healthy in no time")
    yield from _overlap(spec)
    yield from _expiry(spec)


def _limits(
    in_flight: int | str | UnsetType, failed: int | str | UnsetType, lost: int | str | UnsetType, path: Path
) -> Iterator[Flaw]:
    yield from _at_least_one(in_flight, (*path, "maxInFlight"))
    for field, value in (("maxFailed", failed), ("maxLost", lost)):
        if isinstance(value, int) and value < 0:
            yield Flaw((*path, field), "at least 0")


def _at_least_one(value: int | str | UnsetType, path: Path) -> Iterator[Flaw]:
    if value == "0%" or (isinstance(value, int) and value < 1):
        yield Flaw(path, "nobody could ever be in flight; at least 1 or 1%")


def _quorum(wave: Wave, path: Path) -> Iterator[Flaw]:
    """All of a wave, and some of it that may fail, cannot both be."""
    if wave.quorum == "100%" and wave.max_failed not in (0, "0%"):
        what = f"a wave of which maxFailed lets {wave.max_failed} fail can then never have 100% done"
        yield Flaw((*path, "quorum"), what)


def _window(wave: Wave, path: Path) -> Iterator[Flaw]:
    """``site`` is checked where a cluster says its zone."""
    window = wave.window
    if window is None:
        return
    zone = "UTC" if window.time_zone == SITE else window.time_zone
    try:
        parse_window(window.cron, window.duration, zone)
    except MusterError as error:
        field = WINDOW_FIELDS.get(error.code, "cron")
        yield Flaw((*path, "window", field), f"{error.message}: {error.object}")


def _overlap(spec: RolloutPlanSpec) -> Iterator[Flaw]:
    """Waves that an earlier one leaves nobody for, whatever the fleet is."""
    named: dict[str, str] = {}
    everybody = ""
    for index, wave in enumerate(spec.waves):
        path: Path = ("waves", index)
        if everybody and not wave.rest:
            yield Flaw(path, f"wave {everybody} before it takes every cluster, so this one is empty")
            return
        for number, name in enumerate(wave.names):
            if name in named:
                what = f"{name} is in wave {named[name]} already"
                yield Flaw((*path, "names", number), what)
            named[name] = wave.name
        earlier = next((w for w in spec.waves[:index] if w.selector and w.selector == wave.selector), None)
        if earlier:
            what = f"the same clusters as wave {earlier.name}, which takes them first, so this one is empty"
            yield Flaw((*path, "selector"), what)
        selects_all = (
            wave.selector is not None
            and not wave.selector.match_labels
            and not wave.selector.match_expressions
        )
        if selects_all or wave.percent == "100%":
            everybody = wave.name


def _expiry(spec: RolloutPlanSpec) -> Iterator[Flaw]:
    if isinstance(spec.expire, str):
        soaks = sum(parse_duration(wave.soak) for wave in spec.waves)
        if parse_duration(spec.expire) < soaks + parse_duration(spec.deadline):
            what = "shorter than the deadline and the soaks of all waves together, so it could never end well"
            yield Flaw(("expire",), what)


def _gate(gate: Gate, path: Path) -> Iterator[Flaw]:
    kinds = [gate.approval, gate.time, gate.http, gate.prometheus]
    if sum(kind is not None for kind in kinds) != 1:
        yield Flaw(path, ONE_OF)
        return
    if gate.approval:
        asked = gate.approval
        if asked.by and len(set(asked.by)) < asked.count:
            yield Flaw((*path, "approval", "count"), f"only {len(set(asked.by))} may approve")
    elif gate.time:
        try:
            parse_time(gate.time.after)
        except MusterError as error:
            yield Flaw((*path, "time", "after"), f"{error.message}; {error.hint}")
    elif gate.http:
        if not is_http(gate.http.url):
            yield Flaw((*path, "http", "url"), "not an http or https address")
        yield from _measuring(gate.http, (*path, "http"))
    elif gate.prometheus:
        query = gate.prometheus
        bounds = [bound for bound in (query.below, query.above) if isinstance(bound, float)]
        if len(bounds) != 1 or not math.isfinite(bounds[0]):
            yield Flaw((*path, "prometheus"), "exactly one of below and above, and a finite number")
        yield from _measuring(query, (*path, "prometheus"))


def _measuring(check: HttpCheck | PrometheusCheck, path: Path) -> Iterator[Flaw]:
    interval = parse_duration(check.interval)
    if interval < 1:
        yield Flaw((*path, "interval"), "at least 1s")
    if isinstance(check.fail_after, str) and parse_duration(check.fail_after) <= interval * (
        check.consecutive - 1
    ):
        what = f"over before {check.consecutive} measurements in a row could be made"
        yield Flaw((*path, "failAfter"), what)
