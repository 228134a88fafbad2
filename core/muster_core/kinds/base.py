"""What every kind is made of: names, durations, counts, labels and selectors, and the strictness of all models.

Owns these shapes and nothing that has a kind of its own.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from muster_core.durations import DURATION

API_VERSION = "muster.dev/v1alpha1"

# A ``$`` alone would let a line break stand at the end.
NAME = r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$(?!\n)"
OBJECT_NAME = r"^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$(?!\n)"
PERCENT = r"^(100|[1-9][0-9]?)%$(?!\n)"
PERCENT_OR_NONE = r"^(100|[0-9]{1,2})%$(?!\n)"
Name = Annotated[str, Meta(pattern=NAME)]
ObjectName = Annotated[str, Meta(pattern=OBJECT_NAME)]
Duration = Annotated[str, Meta(pattern=DURATION)]
Percent = Annotated[str, Meta(pattern=PERCENT)]
CountOrPercent = int | Annotated[str, Meta(pattern=PERCENT_OR_NONE)]
Labels = dict[str, str]


class Model(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel", kw_only=True, omit_defaults=True
):
    """Frozen, strict, camelCase."""


class Metadata(Model, frozen=True, kw_only=True):
    """Names and labels; of a plan and a fleet only the name is used."""

    name: Name
    labels: Labels = {}


class SecretMetadata(Model, frozen=True, kw_only=True):
    """The Kubernetes Secret that the file becomes; both names are bound into what is sealed."""

    name: ObjectName
    namespace: Name


class Requirement(Model, frozen=True, kw_only=True):
    key: str
    operator: Literal["In", "NotIn", "Exists", "DoesNotExist"]
    values: list[str] = []


class Selector(Model, frozen=True, kw_only=True):
    """Kubernetes label selector. An empty one matches everything."""

    match_labels: Labels = {}
    match_expressions: list[Requirement] = []
