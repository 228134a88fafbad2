"""The kinds that the server knows, and how a kind is named in paths.

Owns the table of built-in resources and the live catalog that definitions (CRDs) are added to and removed
from. It never stores objects.
"""

from __future__ import annotations

from dataclasses import dataclass, field

VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


@dataclass(frozen=True, slots=True, kw_only=True)
class Resource:
    """One served resource: a kind at one version."""

    group: str
    version: str
    kind: str
    plural: str
    singular: str
    short: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    namespaced: bool = True
    status: bool = False
    generation: bool = False
    builtin: bool = True
    scale: bool = False
    list_kind: str = ""

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def key(self) -> tuple[str, str]:
        """Where objects of every version of this kind are stored."""
        return (self.group, self.plural)

    @property
    def qualified(self) -> str:
        """The name that error messages use: ``deployments.apps``."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def collection_kind(self) -> str:
        return self.list_kind or self.kind + "List"


def _kind(api: str, kind: str, plural: str, flags: str = "", short: str = "") -> Resource:
    """``flags``: c cluster-scoped, s status subresource, g generation, a category all, x scale."""
    group, _, version = api.rpartition("/")
    return Resource(
        group=group,
        version=version,
        kind=kind,
        plural=plural,
        singular=kind.lower(),
        short=tuple(short.split()),
        categories=("all",) if "a" in flags else (),
        namespaced="c" not in flags,
        status="s" in flags,
        generation="g" in flags,
        scale="x" in flags,
    )


BUILTINS = (
    _kind("v1", "Namespace", "namespaces", "cs", "ns"),
    _kind("v1", "ConfigMap", "configmaps", "", "cm"),
    _kind("v1", "Secret", "secrets"),
    _kind("v1", "Service", "services", "sa", "svc"),
    _kind("v1", "ServiceAccount", "serviceaccounts", "", "sa"),
    _kind("v1", "Pod", "pods", "sga", "po"),
    _kind("v1", "Node", "nodes", "cs", "no"),
    _kind("v1", "Event", "events", "", "ev"),
    _kind("v1", "PersistentVolume", "persistentvolumes", "cs", "pv"),
    _kind("v1", "PersistentVolumeClaim", "persistentvolumeclaims", "s", "pvc"),
    _kind("v1", "Endpoints", "endpoints", "", "ep"),
    _kind("v1", "LimitRange", "limitranges", "", "limits"),
    _kind("v1", "ResourceQuota", "resourcequotas", "s", "quota"),
    _kind("apps/v1", "Deployment", "deployments", "sgax", "deploy"),
    _kind("apps/v1", "ReplicaSet", "replicasets", "sgax", "rs"),
    _kind("apps/v1", "StatefulSet", "statefulsets", "sgax", "sts"),
    _kind("apps/v1", "DaemonSet", "daemonsets", "sga", "ds"),
    _kind("batch/v1", "Job", "jobs", "sga"),
    _kind("batch/v1", "CronJob", "cronjobs", "sga", "cj"),
    _kind("networking.k8s.io/v1", "Ingress", "ingresses", "sg", "ing"),
    _kind("networking.k8s.io/v1", "IngressClass", "ingressclasses", "cg"),
    _kind("networking.k8s.io/v1", "NetworkPolicy", "networkpolicies", "g", "netpol"),
    _kind("rbac.authorization.k8s.io/v1", "Role", "roles"),
    _kind("rbac.authorization.k8s.io/v1", "RoleBinding", "rolebindings"),
    _kind("rbac.authorization.k8s.io/v1", "ClusterRole", "clusterroles", "c"),
    _kind("rbac.authorization.k8s.io/v1", "ClusterRoleBinding", "clusterrolebindings", "c"),
    _kind("policy/v1", "PodDisruptionBudget", "poddisruptionbudgets", "sg", "pdb"),
    _kind("autoscaling/v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers", "sga", "hpa"),
    _kind(
        "apiextensions.k8s.io/v1", "CustomResourceDefinition", "customresourcedefinitions", "csg", "crd crds"
    ),
    _kind("coordination.k8s.io/v1", "Lease", "leases"),
    _kind("storage.k8s.io/v1", "StorageClass", "storageclasses", "c", "sc"),
    _kind("scheduling.k8s.io/v1", "PriorityClass", "priorityclasses", "cg", "pc"),
    _kind(
        "admissionregistration.k8s.io/v1",
        "ValidatingWebhookConfiguration",
        "validatingwebhookconfigurations",
        "cg",
    ),
    _kind(
        "admissionregistration.k8s.io/v1",
        "MutatingWebhookConfiguration",
        "mutatingwebhookconfigurations",
        "cg",
    ),
)


@dataclass(slots=True)
class Catalog:
    """What is served now."""

    _resources: dict[tuple[str, str, str], Resource] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for resource in BUILTINS:
            self.add(resource)

    def add(self, resource: Resource) -> None:
        self._resources[(resource.group, resource.version, resource.plural)] = resource

    def drop(self, group: str, plural: str) -> list[Resource]:
        gone = [r for r in self._resources.values() if r.key == (group, plural) and not r.builtin]
        for resource in gone:
            del self._resources[(resource.group, resource.version, resource.plural)]
        return gone

    def find(self, group: str, version: str, plural: str) -> Resource | None:
        return self._resources.get((group, version, plural))

    def by_key(self, key: tuple[str, str]) -> Resource | None:
        return next((r for r in self._resources.values() if r.key == key), None)

    def by_kind(self, api_version: str, kind: str) -> Resource | None:
        return next(
            (r for r in self._resources.values() if (r.api_version, r.kind) == (api_version, kind)), None
        )

    def all(self) -> list[Resource]:
        return list(self._resources.values())

    def versions(self) -> dict[str, dict[str, list[Resource]]]:
        """``{group: {version: resources}}`` in a stable order."""
        tree: dict[str, dict[str, list[Resource]]] = {}
        for resource in self._resources.values():
            tree.setdefault(resource.group, {}).setdefault(resource.version, []).append(resource)
        return tree
