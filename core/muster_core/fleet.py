"""A whole fleet repository at one commit, read into typed values and named problems.

Owns the layout (fleet.yaml, bundles, plans, policies, secrets, registry) and the checks across files. A broken bundle
is that bundle's problem, not the fleet's. It never touches git or a disk.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from muster_core.errors import MusterError, ValidationError
from muster_core.kinds.model import Bundle, Cluster, Fleet, FleetSecret, RolloutPlan
from muster_core.kinds.parse import KindError, parse
from muster_core.manifest.load import Document, load_documents
from muster_core.policy import PodSecuritySettings, PolicySet, compile_policies
from muster_core.release import BundleAt, tree_digest
from muster_core.select import targeted
from muster_core.tree import Tree, within

K = TypeVar("K")


class Problem(NamedTuple):
    """Something wrong, as one line; ``bundle`` is empty when it is not one bundle's."""

    file: str
    line: int
    text: str
    bundle: str = ""

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.text}"


@dataclass(slots=True)
class FleetContents:
    """What a commit of the fleet repository says. ``fleet`` is None only when fleet.yaml is a problem."""

    fleet: Fleet | None = None
    bundles: dict[str, BundleAt] = field(default_factory=dict)
    plans: dict[str, RolloutPlan] = field(default_factory=dict)
    secrets: dict[str, FleetSecret] = field(default_factory=dict)
    policy_documents: list[tuple[str, int, dict[str, Any]]] = field(default_factory=list)
    digests: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def plan_of(self, bundle: str) -> str:
        """The plan that rolls a bundle out, or an empty text."""
        own = self.bundles[bundle].bundle.spec.plan
        default = self.fleet.spec.defaults.plan if self.fleet else ""
        return own if isinstance(own, str) else default if isinstance(default, str) else ""

    def problems_of(self, bundle: str) -> list[Problem]:
        return [problem for problem in self.problems if problem.bundle == bundle]

    def secrets_of(self, bundle: str) -> list[FleetSecret]:
        """The FleetSecrets that a bundle names; ``MUSTER-V004`` when one is not there."""
        found = []
        for path in self.bundles[bundle].secret_files:
            if path not in self.secrets:
                raise ValidationError("V004", f"bundle {bundle} names a secret that is not there", object=path)
            found.append(self.secrets[path])
        return found


def read_fleet(tree: Tree) -> FleetContents:
    """Reads everything; what cannot be read is in ``problems`` and absent from the rest."""
    contents = FleetContents()
    paths = [file.path for file in tree.files()]
    contents.fleet = _one(tree, "fleet.yaml", Fleet, contents) if "fleet.yaml" in paths else None
    if "fleet.yaml" not in paths:
        contents.problems.append(Problem("fleet.yaml", 1, "there is no fleet.yaml at the root; make one: muster init"))
    roots = contents.fleet.spec.policies.paths if contents.fleet else []
    for path in paths:
        if not path.endswith((".yaml", ".yml")):
            continue
        if path.endswith("/bundle.yaml"):
            _bundle(tree, path, contents)
        elif within(path, ("plans",)):
            plan = _one(tree, path, RolloutPlan, contents)
            if plan:
                _unique(contents.plans, plan.metadata.name, plan, path, "plans", contents)
        elif within(path, ("secrets",)):
            secret = _one(tree, path, FleetSecret, contents)
            if secret:
                contents.secrets[path] = secret
        elif within(path, [root.strip("/") for root in roots]):
            _policies(tree, path, contents)
    _across(tree, contents)
    return contents


def read_registry(tree: Tree) -> tuple[dict[str, Cluster], list[Problem]]:
    """The registry entries by cluster name; an entry must stand in ``clusters/<its name>.yaml``."""
    contents = FleetContents()
    clusters: dict[str, Cluster] = {}
    for file in tree.files():
        if not within(file.path, ("clusters",)) or not file.path.endswith(".yaml"):
            continue
        cluster = _one(tree, file.path, Cluster, contents)
        if not cluster:
            continue
        if file.path != f"clusters/{cluster.metadata.name}.yaml":
            contents.problems.append(Problem(file.path, 1, f"the entry of {cluster.metadata.name} belongs into clusters/{cluster.metadata.name}.yaml"))
            continue
        clusters[cluster.metadata.name] = cluster
    for field_name in ("uid", "identity_key"):
        seen: dict[str, str] = {}
        for name, cluster in clusters.items():
            value = getattr(cluster.spec, field_name)
            if value in seen:
                contents.problems.append(Problem(f"clusters/{name}.yaml", 1, f"{name} has the {field_name} of {seen[value]}"))
            seen[value] = name
    return clusters, contents.problems


def unmatched(contents: FleetContents, clusters: Mapping[str, Cluster]) -> list[Problem]:
    """Bundles that target nobody in this registry."""
    return [
        Problem(at.file, 1, "no cluster in the registry matches spec.targets", name)
        for name, at in contents.bundles.items()
        if clusters and not any(targeted(at.bundle, cluster.all_labels) for cluster in clusters.values())
    ]


def compile_fleet_policies(contents: FleetContents) -> PolicySet:
    """The policy set of this commit; ``PolicyError`` names what it uses that is not built."""
    security = contents.fleet.spec.policies.pod_security if contents.fleet else None
    settings = PodSecuritySettings(enforce=security.enforce, warn=security.warn, version=security.version) if security else None
    return compile_policies(contents.policy_documents, settings)


def _documents(tree: Tree, path: str, contents: FleetContents, bundle: str = "") -> tuple[Document, ...]:
    try:
        return load_documents(tree.read(path), path)
    except ValidationError as error:
        contents.problems.append(_problem(path, error, bundle))
        return ()


def _problem(path: str, error: MusterError, bundle: str = "") -> Problem:
    if isinstance(error, KindError):
        where = f"{error.path}: " if error.path else ""
        return Problem(error.file, error.line, where + error.what, bundle)
    file, _, rest = error.message.partition(":")
    line, _, text = rest.partition(": ")
    return Problem(path, int(line), text, bundle) if file == path and line.isdigit() else Problem(path, 1, str(error), bundle)


def _one(tree: Tree, path: str, kind: type[K], contents: FleetContents, bundle: str = "") -> K | None:
    documents = _documents(tree, path, contents, bundle)
    if len(documents) != 1:
        if documents or not any(problem.file == path for problem in contents.problems):
            contents.problems.append(Problem(path, 1, f"exactly one {kind.__name__} is expected, found {len(documents)} documents", bundle))
        return None
    try:
        return parse(documents[0], kind)
    except ValidationError as error:
        contents.problems.append(_problem(path, error, bundle))
        return None


def _bundle(tree: Tree, path: str, contents: FleetContents) -> None:
    folder = path.rpartition("/")[0]
    bundle = _one(tree, path, Bundle, contents, folder.rpartition("/")[2])
    if bundle:
        _unique(contents.bundles, bundle.metadata.name, BundleAt(bundle, path, folder), path, "bundles", contents)


def _unique(table: dict[str, K], name: str, value: K, path: str, what: str, contents: FleetContents) -> None:
    if name in table:
        contents.problems.append(Problem(path, 1, f"two {what} are named {name}", name if what == "bundles" else ""))
    else:
        table[name] = value


def _policies(tree: Tree, path: str, contents: FleetContents) -> None:
    for document in _documents(tree, path, contents):
        if isinstance(document.value, dict):
            contents.policy_documents.append((document.file, document.line, document.value))
        else:
            contents.problems.append(Problem(path, document.line, "a policy must be a mapping"))


def _across(tree: Tree, contents: FleetContents) -> None:
    """References between files, secrets that clash, and the digest of each whole bundle."""
    _secrets_clash(contents.secrets.items(), contents)
    for name, at in contents.bundles.items():
        plan = contents.plan_of(name)
        if not plan:
            contents.problems.append(Problem(at.file, 1, "spec.plan: missing, and fleet.yaml has no defaults.plan", name))
        elif plan not in contents.plans:
            contents.problems.append(Problem(at.file, 1, f"spec.plan: there is no plan {plan}", name))
        try:
            secrets = contents.secrets_of(name)
            digest = tree_digest(tree, at, secrets)
        except MusterError as error:
            contents.problems.append(Problem(at.file, 1, f"{error.message}: {error.object}", name))
            continue
        if not any(within(file.path, (at.source,)) and file.path != at.file for file in tree.files()):
            contents.problems.append(Problem(at.file, 1, f"spec.source.path: nothing at {at.source or '.'}", name))
            continue
        contents.digests[name] = digest


def _secrets_clash(secrets: Iterable[tuple[str, FleetSecret]], contents: FleetContents) -> None:
    ids: dict[str, str] = {}
    names: dict[tuple[str, str], str] = {}
    for path, secret in secrets:
        key = (secret.metadata.namespace, secret.metadata.name)
        if secret.spec.file_id in ids:
            contents.problems.append(Problem(path, 1, f"spec.fileId: the id of {ids[secret.spec.file_id]}; a copied secret must be sealed anew"))
        elif key in names:
            contents.problems.append(Problem(path, 1, f"metadata.name: {key[0]}/{key[1]} is also in {names[key]}"))
        ids.setdefault(secret.spec.file_id, path)
        names.setdefault(key, path)
