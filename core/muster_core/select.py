"""Label selectors, and whether a bundle means a cluster.

Owns Kubernetes selector semantics in both spellings (fields and ``-l`` text) and the order in which values
are merged. The hub's opinion of labels plays no part: callers pass a registry entry.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from muster_core.errors import ValidationError
from muster_core.kinds.base import Requirement, Selector
from muster_core.kinds.model import Bundle, Cluster

Value = str | int | float | bool

_TERM = re.compile(
    r"\s*(?:!\s*(?P<absent>[\w./-]+)|(?P<key>[\w./-]+)(?:\s+(?P<set>in|notin)\s*\((?P<values>[^)]*)\)|"
    r"\s*(?P<op>==|=|!=)\s*(?P<value>[\w.-]*))?)\s*(?:,|$)"
)


def matches(selector: Selector, labels: Mapping[str, str]) -> bool:
    """Kubernetes semantics: all terms must hold; NotIn holds where the label is absent."""
    return all(labels.get(key) == value for key, value in selector.match_labels.items()) and all(
        _holds(term, labels) for term in selector.match_expressions
    )


def _holds(term: Requirement, labels: Mapping[str, str]) -> bool:
    match term.operator:
        case "In":
            return labels.get(term.key) in term.values
        case "NotIn":
            return labels.get(term.key) not in term.values
        case "Exists":
            return term.key in labels
        case "DoesNotExist":
            return term.key not in labels


def parse_selector(text: str) -> Selector:
    """A selector as written after ``-l``: ``tier=store,region in (eu,us),!retired``."""
    equal: dict[str, str] = {}
    terms: list[Requirement] = []
    at = 0
    while at < len(text.rstrip()):
        found = _TERM.match(text, at)
        if not found or found.end() == at:
            raise ValidationError(
                "V032",
                f"{text!r} is not a selector at {text[at:]!r}",
                hint="Write it like tier=store,region in (eu,us),!retired.",
            )
        at = found.end()
        key = found["key"]
        if found["absent"]:
            terms.append(Requirement(key=found["absent"], operator="DoesNotExist"))
        elif found["set"]:
            values = [value.strip() for value in found["values"].split(",") if value.strip()]
            terms.append(
                Requirement(key=key, operator="In" if found["set"] == "in" else "NotIn", values=values)
            )
        elif found["op"] == "!=":
            terms.append(Requirement(key=key, operator="NotIn", values=[found["value"]]))
        elif found["op"]:
            equal[key] = found["value"]
        else:
            terms.append(Requirement(key=key, operator="Exists"))
    return Selector(match_labels=equal, match_expressions=terms)


def targeted(bundle: Bundle, labels: Mapping[str, str]) -> bool:
    """Whether any target of the bundle selects a cluster with these labels."""
    return any(matches(target.selector, labels) for target in bundle.spec.targets)


def values_for(bundle: Bundle, cluster: Cluster) -> dict[str, Value] | None:
    """The flat names that this cluster's manifests see, or None when the bundle does not target it.

    Order: all matching ``targets[].values``, then the Cluster's ``values``, then ``substitute``, in which
    ``${cluster.name}``, ``${cluster.labels.x}`` and ``${cluster.values.x}`` may stand.
    """
    labels = cluster.all_labels
    hits = [target for target in bundle.spec.targets if matches(target.selector, labels)]
    if not hits:
        return None
    merged: dict[str, Value] = {}
    for target in hits:
        merged |= target.values
    merged |= cluster.spec.values
    for name, text in bundle.spec.render.substitute.items():
        merged[name] = _cluster_text(text, cluster, name)
    return merged


_REFERENCE = re.compile(r"\$\{cluster\.([^}]*)\}")


def _cluster_text(text: str, cluster: Cluster, name: str) -> str:
    def value(found: re.Match[str]) -> str:
        where, _, key = found[1].partition(".")
        if where == "name" and not key:
            return cluster.metadata.name
        tables: dict[str, dict[str, Value]] = {
            "labels": dict(cluster.all_labels),
            "values": cluster.spec.values,
        }
        table = tables.get(where, {})
        if key not in table:
            raise ValidationError(
                "V023",
                f"substitute.{name} names ${{cluster.{found[1]}}}, which this cluster lacks",
                object=cluster.metadata.name,
                hint="Add the label or value to its registry entry.",
            )
        found_value = table[key]
        return str(found_value).lower() if isinstance(found_value, bool) else str(found_value)

    return _REFERENCE.sub(value, text)
