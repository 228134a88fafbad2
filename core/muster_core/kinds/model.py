"""The kinds that users write, as typed values; the JSON Schemas come from these same models.

Owns field names, types and defaults (SURFACE: Kubernetes conventions, camelCase in files). Every field here
changes behaviour; what is not built is not here, so it is refused by name. It never reads a file.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

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


# --- RolloutPlan -------------------------------------------------------------------------------------------


class Offline(Model, frozen=True, kw_only=True):
    """``owe`` frees the slot and lets the wave go on, ``wait`` frees the slot and holds the wave, ``fail`` is harm."""

    after: Duration | UnsetType = UNSET
    policy: Literal["owe", "wait", "fail"] = "owe"


class Approval(Model, frozen=True, kw_only=True):
    """So many different people, of ``by`` (empty: every approver). An author is who started it or wrote the commit."""

    count: Annotated[int, Meta(ge=1, le=100)] = 1
    by: list[str] = []
    not_author: bool = True


class StartTime(Model, frozen=True, kw_only=True):
    """Not before this RFC 3339 time."""

    after: str


class HttpCheck(Model, frozen=True, kw_only=True):
    """A GET every ``interval``: passed after ``consecutive`` answers with this status that contain this text.

    ``failAfter`` without passing: the plan's ``onFailure``. Unset: it holds for ever.
    """

    url: str
    expect: Annotated[int, Meta(ge=100, le=599)] = 200
    contains: str = ""
    interval: Duration = "30s"
    consecutive: Annotated[int, Meta(ge=1, le=1000)] = 1
    fail_after: Duration | UnsetType = UNSET


class PrometheusCheck(Model, frozen=True, kw_only=True):
    """An instant query to one of the fleet's ``metricServers``; exactly one of ``below`` and ``above``."""

    server: Name
    query: Annotated[str, Meta(min_length=1)]
    below: float | UnsetType = UNSET
    above: float | UnsetType = UNSET
    interval: Duration = "1m"
    consecutive: Annotated[int, Meta(ge=1, le=1000)] = 1
    fail_after: Duration | UnsetType = UNSET


class Gate(Model, frozen=True, kw_only=True):
    """Exactly one of these."""

    approval: Approval | None = None
    time: StartTime | None = None
    http: HttpCheck | None = None
    prometheus: PrometheusCheck | None = None


class Gates(Model, frozen=True, kw_only=True):
    """``before``: nobody of the wave is offered anything. ``after``: it does not pass, its soaks being over."""

    before: Annotated[list[Gate], Meta(max_length=20)] = []
    after: Annotated[list[Gate], Meta(max_length=20)] = []


class WaveWindow(Model, frozen=True, kw_only=True):
    """Offers go out from a cron expression's moments on, for a duration. ``timeZone`` is an IANA name, or ``site``: each
    cluster's own ``spec.site.timeZone``. A closed window holds and is no failure."""

    cron: str
    duration: Duration
    time_zone: str = "UTC"


class Wave(Model, frozen=True, kw_only=True):
    """Exactly one of names, selector, percent and rest. Other percentages are of the wave.

    ``percent`` takes that share of all members of the rollout, of those that no wave before took. ``spread`` is a label:
    only clusters with one value of it are in flight at a time.
    """

    name: Name
    names: list[Name] = []
    selector: Selector | None = None
    percent: Percent | UnsetType = UNSET
    rest: bool = False
    spread: str = ""
    max_in_flight: CountOrPercent = "25%"
    max_failed: CountOrPercent = 0
    max_lost: CountOrPercent | UnsetType = UNSET
    quorum: Annotated[str, Meta(pattern=PERCENT_OR_NONE)] = "50%"
    soak: Duration = "0s"
    offline: Offline = msgspec.field(default_factory=Offline)
    window: WaveWindow | None = None
    gates: Gates = msgspec.field(default_factory=Gates)


class OnFailure(Model, frozen=True, kw_only=True):
    """What a spent budget, or a gate that fails, does.

    ``rollback`` of scope ``target``: a failed cluster returns by itself to its last healthy release, and nothing more is
    offered. Of scope ``wave`` and ``rollout``: the healthy ones of that wave, or of every wave, are taken back as well.
    """

    action: Literal["pause", "abort", "rollback"] = "pause"
    scope: Literal["target", "wave", "rollout"] = "target"


class CatchUp(Model, frozen=True, kw_only=True):
    max_in_flight: CountOrPercent = "10%"
    max_failed: CountOrPercent = "5%"


class RolloutPlanSpec(Model, frozen=True, kw_only=True):
    """Limits here are of all members together, beside those of each wave.

    ``supersede``: a newer release waits until this rollout has ended, or takes its place. ``expire`` (unset: never): past it
    nothing is offered any more, and who did not get it is owed. ``rollbackMaxInFlight`` (unset: twice the largest wave's).
    """

    waves: Annotated[list[Wave], Meta(min_length=1, max_length=1000)]
    max_in_flight: CountOrPercent | UnsetType = UNSET
    max_failed: CountOrPercent | UnsetType = UNSET
    max_lost: CountOrPercent | UnsetType = UNSET
    rollback_max_in_flight: CountOrPercent | UnsetType = UNSET
    supersede: Literal["queue", "replace"] = "queue"
    expire: Duration | UnsetType = UNSET
    deadline: Duration = "15m"
    soak_holds_slot: bool = True
    unmatched: Literal["refuse", "last", "exclude"] = "refuse"
    on_failure: OnFailure = msgspec.field(default_factory=OnFailure)
    catch_up: CatchUp = msgspec.field(default_factory=CatchUp)


class RolloutPlan(Model, frozen=True, kw_only=True):
    api_version: Literal["muster.dev/v1alpha1"]
    kind: Literal["RolloutPlan"]
    metadata: Metadata
    spec: RolloutPlanSpec


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
