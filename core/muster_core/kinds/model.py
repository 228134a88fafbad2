"""The kinds that users write, as typed values (plans have a module of their own); the JSON Schemas come from these models.

Owns field names, types and defaults (SURFACE: Kubernetes conventions, camelCase in files). Every field here
changes behaviour; what is not built is not here, so it is refused by name. It never reads a file.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from muster_core.kinds.base import (
    CountOrPercent,
    Duration,
    Labels,
    Metadata,
    Model,
    Name,
    SecretMetadata,
    Selector,
)
from muster_core.kinds.plans import RolloutPlan

# --- Fleet -------------------------------------------------------------------------------------------------


class PodSecurity(Model, frozen=True, kw_only=True):
    enforce: Literal["privileged", "baseline", "restricted"] = "privileged"
    warn: Literal["privileged", "baseline", "restricted"] = "privileged"
    version: str = "latest"


class Policies(Model, frozen=True, kw_only=True):
    paths: list[str] = msgspec.field(default_factory=lambda: ["policies"])
    pod_security: PodSecurity | None = None


class Defaults(Model, frozen=True, kw_only=True):
    plan: Name | UnsetType = UNSET
    prune: bool = True


class SiteClass(Model, frozen=True, kw_only=True):
    contact_interval: Duration = "1m"


class Limits(Model, frozen=True, kw_only=True):
    """``maxDisrupted``: clusters in flight over all rollouts together; percent of the clusters of the registry."""

    max_disrupted: CountOrPercent | UnsetType = UNSET


class MetricServer(Model, frozen=True, kw_only=True):
    """A Prometheus API by the name that gates use."""

    name: Name
    url: str


NEEDS_DIRECTIVE = frozenset({"directives", "both"})  # modes in which a release is taken by an operator's word


class FleetSpec(Model, frozen=True, kw_only=True):
    id: Annotated[str, Meta(min_length=16)]
    mode: Literal["signed-commits", "directives", "both", "open"] = "signed-commits"
    policies: Policies = msgspec.field(default_factory=Policies)
    defaults: Defaults = msgspec.field(default_factory=Defaults)
    site_classes: dict[str, SiteClass] = {}
    metric_servers: list[MetricServer] = []
    limits: Limits = msgspec.field(default_factory=Limits)


class Fleet(Model, frozen=True, kw_only=True):
    api_version: Literal["muster.dev/v1alpha1"]
    kind: Literal["Fleet"]
    metadata: Metadata
    spec: FleetSpec


# --- Bundle ------------------------------------------------------------------------------------------------


class Source(Model, frozen=True, kw_only=True):
    """``path`` is relative to the bundle file's folder; so are the shared bases in ``include``."""

    path: str = "."
    include: list[str] = []


class Manifests(Model, frozen=True, kw_only=True):
    path: str = "."


class Kustomize(Model, frozen=True, kw_only=True):
    path: str = "."


class Render(Model, frozen=True, kw_only=True):
    """Exactly one of manifests and kustomize; absent means detected (a kustomization file decides)."""

    manifests: Manifests | None = None
    kustomize: Kustomize | None = None
    substitute: dict[str, str] = {}


class Target(Model, frozen=True, kw_only=True):
    selector: Selector
    values: dict[str, str | int | float | bool] = {}


class BundleHealth(Model, frozen=True, kw_only=True):
    deadline: Duration = "5m"


class Remove(Model, frozen=True, kw_only=True):
    """The release has no objects: wherever it goes, what the bundle delivered before is pruned.

    What takes other things with it when it goes stays in the cluster unless it is said here: a claim its data, a definition
    every object of its kind, a namespace everything in it, claims as well, so ``namespaces`` asks for ``claims``.
    """

    namespaces: bool = False
    claims: bool = False
    definitions: bool = False


class Dependency(Model, frozen=True, kw_only=True):
    """Another bundle that must be healthy on a cluster before this one is offered to it."""

    name: Name


class BundleSpec(Model, frozen=True, kw_only=True):
    source: Source = msgspec.field(default_factory=Source)
    render: Render = msgspec.field(default_factory=Render)
    targets: Annotated[list[Target], Meta(min_length=1)]
    plan: Name | UnsetType = UNSET
    depends_on: list[Dependency] = []
    namespace: str = ""
    secrets: list[str] = []
    health: BundleHealth = msgspec.field(default_factory=BundleHealth)
    rollback: Literal["previous", "none"] = "previous"
    remove: Remove | None = None


class Bundle(Model, frozen=True, kw_only=True):
    api_version: Literal["muster.dev/v1alpha1"]
    kind: Literal["Bundle"]
    metadata: Metadata
    spec: BundleSpec


# --- Cluster (registry branch) -----------------------------------------------------------------------------


class SealingKey(Model, frozen=True, kw_only=True):
    """``key`` is ``x25519:<hex>``; ``signature`` the identity key's, hex."""

    generation: Annotated[int, Meta(ge=1, le=2**63 - 1)]
    key: str
    signature: str


class SiteWindow(Model, frozen=True, kw_only=True):
    """From a cron expression's moments on, for a duration; in the site's time zone."""

    cron: str
    duration: Duration


class Site(Model, frozen=True, kw_only=True):
    """What the place where a cluster stands allows, judged by the cluster itself.

    Outside ``window`` it takes no new release; ``veto`` names bundles of which it takes none at all. What runs is healed all
    the same.
    """

    time_zone: str = "UTC"
    window: SiteWindow | None = None
    veto: list[Name] = []


class ClusterSpec(Model, frozen=True, kw_only=True):
    """``revoked`` keeps the name and the keys taken: the cluster is offered nothing and cannot come back.

    ``removal: uninstall`` asks the cluster to prune every bundle before its entry is taken out.
    """

    uid: str
    revoked: bool = False
    removal: Literal["uninstall"] | UnsetType = UNSET
    protected_labels: Labels = {}
    values: dict[str, str | int | float | bool] = {}
    site_class: str = "connected"
    site: Site | None = None
    identity_key: str
    sealing_keys: list[SealingKey] = []


class Cluster(Model, frozen=True, kw_only=True):
    api_version: Literal["muster.dev/v1alpha1"]
    kind: Literal["Cluster"]
    metadata: Metadata
    spec: ClusterSpec

    @property
    def all_labels(self) -> dict[str, str]:
        """Labels that selectors see; a protected label wins over a plain one of the same name."""
        return {**self.metadata.labels, **self.spec.protected_labels}

    @property
    def is_leaving(self) -> bool:
        """Every bundle is to be taken away from it, so it gets no release any more."""
        return self.spec.removal == "uninstall"


# --- FleetSecret -------------------------------------------------------------------------------------------


class SecretEntry(Model, frozen=True, kw_only=True):
    revision: int
    nonce: str
    data: str


class SecretTemplate(Model, frozen=True, kw_only=True):
    labels: Labels = {}
    annotations: Labels = {}


class FleetSecretSpec(Model, frozen=True, kw_only=True):
    format: Literal[1]
    file_id: str
    type: str = "Opaque"
    immutable: bool = False
    template: SecretTemplate = msgspec.field(default_factory=SecretTemplate)
    key_generation: int
    revision: int
    selector: Selector
    commitment: str
    entries: dict[str, SecretEntry]
    recipients: list[str]
    mac: str


class FleetSecret(Model, frozen=True, kw_only=True):
    api_version: Literal["muster.dev/v1alpha1"]
    kind: Literal["FleetSecret"]
    metadata: SecretMetadata
    spec: FleetSecretSpec


KINDS: dict[str, type[Fleet] | type[Bundle] | type[RolloutPlan] | type[Cluster] | type[FleetSecret]] = {
    "Fleet": Fleet,
    "Bundle": Bundle,
    "RolloutPlan": RolloutPlan,
    "Cluster": Cluster,
    "FleetSecret": FleetSecret,
}
