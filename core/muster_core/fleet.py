"""A whole fleet repository at one commit, read into typed values and named problems.

Owns the layout (fleet.yaml, bundles, plans, policies, secrets, registry) and the checks across files. A
broken bundle is that bundle's problem, not the fleet's. It never touches git or a disk.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from muster_core.errors import MusterError, SecretError, ValidationError
from muster_core.kinds.model import Bundle, Cluster, Fleet, FleetSecret
from muster_core.kinds.parse import KindError, parse, render_path
from muster_core.kinds.plans import RolloutPlan
from muster_core.manifest.load import Document, DocumentError, load_documents
from muster_core.release import BundleAt, tree_digest
from muster_core.rollout.membership import members_of
from muster_core.rollout.plan import resolve
from muster_core.sealing.keys import decode_public
from muster_core.tree import SUBMODULE, SYMLINK, ListedTree, Tree, join, within

if TYPE_CHECKING:
    from muster_core.policy import PolicySet

K = TypeVar("K")

DEFAULT_POLICIES = "policies"  # may be absent; any other folder was named on purpose
LONGEST_WAY = 8  # bundles named of a circle of dependencies


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
    policy_problems: list[Problem] = field(default_factory=list)

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
                raise ValidationError(
                    "V004", f"bundle {bundle} names a secret that is not there", object=path
                )
            found.append(self.secrets[path])
        return found


def read_fleet(tree: Tree) -> FleetContents:
    """Reads everything; what cannot be read is in ``problems`` and absent from the rest."""
    reader = _Reader(tree)
    reader.read()
    return reader.contents


def read_settings(tree: Tree) -> Fleet:
    """Only fleet.yaml; ``MUSTER-V006`` when it is missing or wrong."""
    reader = _Reader(tree)
    fleet = (
        reader.one("fleet.yaml", Fleet) if any(file.path == "fleet.yaml" for file in tree.files()) else None
    )
    if fleet is None:
        said = str(reader.contents.problems[0]) if reader.contents.problems else "there is no fleet.yaml"
        raise ValidationError("V006", said, hint="Check the fleet repository: muster validate PATH.")
    return fleet


def read_registry(tree: Tree) -> tuple[dict[str, Cluster], list[Problem]]:
    """The registry entries by cluster name; an entry must stand in ``clusters/<its name>.yaml``."""
    reader = _Reader(tree)
    problems = reader.contents.problems
    clusters: dict[str, Cluster] = {}
    for file in reader.files(("clusters",)):
        cluster = reader.one(file, Cluster)
        if not cluster:
            continue
        name = cluster.metadata.name
        if file != f"clusters/{name}.yaml":
            problems.append(Problem(file, 1, f"the entry of {name} belongs into clusters/{name}.yaml"))
            continue
        clusters[name] = cluster
    uids, keys = dict[str, str](), dict[bytes, str]()
    for name, cluster in list(clusters.items()):
        try:
            key = decode_public(cluster.spec.identity_key)
        except SecretError as error:
            problems.append(Problem(f"clusters/{name}.yaml", 1, f"spec.identityKey: {error.message}"))
            del clusters[name]
            continue
        for shown, other in (
            ("spec.uid", uids.setdefault(cluster.spec.uid, name)),
            ("spec.identityKey", keys.setdefault(key, name)),
        ):
            if other != name:
                problems.append(Problem(f"clusters/{name}.yaml", 1, f"{shown}: the same as that of {other}"))
    return clusters, problems


def in_service(clusters: Mapping[str, Cluster]) -> dict[str, Cluster]:
    """The entries that are not revoked: who may connect, is offered releases and is sealed to."""
    return {name: cluster for name, cluster in clusters.items() if not cluster.spec.revoked}


def unmatched(contents: FleetContents, clusters: Mapping[str, Cluster]) -> list[Problem]:
    """Bundles that target nobody in this registry, or whose plan could not start over it; an empty one proves nothing."""
    if not clusters:
        return []
    found = []
    for name, at in contents.bundles.items():
        members = members_of(at.bundle, clusters, contents.fleet)
        plan = contents.plans.get(contents.plan_of(name))
        if not members:
            found.append(Problem(at.file, 1, "spec.targets: no cluster in the registry matches", name))
        elif plan is not None:
            try:
                resolve(plan, members, name)
            except MusterError as error:
                found.append(Problem(at.file, 1, f"spec.plan: {error.message}: {error.object}", name))
    return found


def compile_fleet_policies(contents: FleetContents) -> PolicySet:
    """The policy set of this commit; ``PolicyError`` names what it uses that is not built, or a file that is not read.

    A file that cannot be read is no smaller set of policies: what it would forbid is not known.
    """
    # The policy engines are large; a reader of bundles does not pay for them.
    from muster_core.policy import PodSecuritySettings, PolicyError, compile_policies

    if contents.policy_problems:
        first = contents.policy_problems[0]
        raise PolicyError("P010", str(first), object=first.file)
    security = contents.fleet.spec.policies.pod_security if contents.fleet else None
    settings = (
        PodSecuritySettings(enforce=security.enforce, warn=security.warn, version=security.version)
        if security
        else None
    )
    return compile_policies(contents.policy_documents, settings)


def _never_start(needs: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Which bundles wait for themselves, or for such a one; with the first such one that each needs. O(dependencies)."""
    left = {name: {other for other in others if other in needs} for name, others in needs.items()}
    needed_by: dict[str, list[str]] = {name: [] for name in needs}
    for name, others in left.items():
        for other in others:
            needed_by[other].append(name)
    startable = [name for name, others in left.items() if not others]
    while startable:
        done = startable.pop()
        for name in needed_by[done]:
            left[name].discard(done)
            if not left[name]:
                startable.append(name)
    return {name: next(o for o in needs[name] if o in others) for name, others in left.items() if others}


def _way(name: str, needs: Mapping[str, str]) -> str:
    """From a bundle that never starts to where it comes round again, or as far as anybody reads."""
    way = [name, needs[name]]
    while way[-1] not in way[:-1]:
        if len(way) == LONGEST_WAY:
            return " needs ".join([*way, "others"])
        way.append(needs[way[-1]])
    return " needs ".join(way)


class _Reader:
    """One pass over a tree; every complaint becomes a problem and the pass goes on."""

    def __init__(self, tree: Tree) -> None:
        self.tree = ListedTree(tree)
        self.contents = FleetContents()
        self._paths = {file.path: file.mode for file in self.tree.files()}
        self._bundle_documents: dict[str, Document] = {}

    def read(self) -> None:
        contents = self.contents
        if "fleet.yaml" in self._paths:
            contents.fleet = self.one("fleet.yaml", Fleet)
        else:
            self.problem("fleet.yaml", "there is no fleet.yaml at the root; make one: muster init")
        for path in self.files(("",)):
            if path.endswith("/bundle.yaml"):
                self._bundle(path)
        for path in self.files(("plans",)):
            plan = self.one(path, RolloutPlan)
            if plan and plan.metadata.name in contents.plans:
                self.problem(path, f"metadata.name: two plans are named {plan.metadata.name}")
            elif plan:
                contents.plans[plan.metadata.name] = plan
        for path in self.files(("secrets",)):
            secret = self.one(path, FleetSecret)
            if secret:
                contents.secrets[path] = secret
        roots = contents.fleet.spec.policies.paths if contents.fleet else []
        others = len(contents.problems)
        for path in self.files(self._policy_folders(roots)):
            self._policies(path)
        contents.policy_problems = contents.problems[others:]
        self._secrets_clash()
        for name, at in contents.bundles.items():
            self._references(name, at)
        self._dependencies()

    def files(self, roots: Sequence[str]) -> list[str]:
        """YAML files below these folders; a link is a problem, and is not followed."""
        found = []
        for path, mode in self._paths.items():
            if path.endswith((".yaml", ".yml")) and within(path, roots):
                if mode not in (SYMLINK, SUBMODULE):
                    found.append(path)
                elif roots != ("",):
                    self.problem(path, "symbolic links and submodules are not followed")
        return found

    def problem(self, path: str, text: str, *, line: int = 1, bundle: str = "") -> None:
        # One line whatever a file holds: a name with a line break must not look like an answer of ours.
        self.contents.problems.append(Problem(path, line, " ".join(text.split()), bundle))

    def one(self, path: str, kind: type[K], bundle: str = "") -> K | None:
        documents = self._documents(path, bundle)
        if documents is None:
            return None
        if len(documents) != 1:
            what = f"exactly one {kind.__name__} is expected here, not {len(documents)} documents"
            self.problem(path, what, bundle=bundle)
            return None
        if kind is Bundle:
            self._bundle_documents[path] = documents[0]
        try:
            return parse(documents[0], kind)
        except KindError as error:
            where = f"{error.path}: " if error.path else ""
            self.problem(path, where + error.what, line=error.line, bundle=bundle)
            return None

    def _documents(self, path: str, bundle: str = "") -> tuple[Document, ...] | None:
        try:
            return load_documents(self.tree.read(path), path)
        except DocumentError as error:
            self.problem(path, error.what, line=error.line, bundle=bundle)
            return None
        except MusterError as error:
            # A tree that cannot give this one file: the others are read all the same.
            self.problem(path, error.message, bundle=bundle)
            return None

    def _bundle(self, path: str) -> None:
        folder = path.rpartition("/")[0]
        bundle = self.one(path, Bundle, folder.rpartition("/")[2])
        if not bundle:
            return
        name = bundle.metadata.name
        first = self.contents.bundles.setdefault(name, BundleAt(bundle, path, folder))
        if first.file != path:
            self.problem(path, f"metadata.name: {first.file} is named {name} too", bundle=name)

    def _policy_folders(self, roots: Sequence[str]) -> list[str]:
        """Where policies are. A folder that was named and holds none is a mistake that would switch policies off."""
        folders = []
        for root in roots:
            try:
                folder = join("", root)
            except ValidationError as error:
                self.problem("fleet.yaml", f"spec.policies.paths: {error.message}: {root}")
                continue
            folders.append(folder)
            for path, mode in self._paths.items():
                link = mode in (SYMLINK, SUBMODULE) and not path.endswith((".yaml", ".yml"))
                if link and (within(path, (folder,)) or within(folder, (path,))):
                    self.problem(path, "symbolic links and submodules are not followed to policies")
            if folder != DEFAULT_POLICIES and not any(within(path, (folder,)) for path in self._paths):
                self.problem("fleet.yaml", f"spec.policies.paths: nothing is at {root}")
        return folders

    def _policies(self, path: str) -> None:
        for document in self._documents(path) or ():
            if isinstance(document.value, dict):
                self.contents.policy_documents.append((document.file, document.line, document.value))
            else:
                self.problem(path, "a policy must be a mapping", line=document.line)

    def _references(self, name: str, at: BundleAt) -> None:
        """What a bundle points at, and its digest when all of that is there."""
        contents, document = self.contents, self._bundle_documents[at.file]

        def missing(text: str, *path: str | int) -> None:
            where = f"{render_path(path)}: " if path else ""
            self.problem(at.file, where + text, line=document.line_of(path), bundle=name)

        plan = contents.plan_of(name)
        if not plan:
            missing("missing, and fleet.yaml has no defaults.plan", "spec", "plan")
        elif plan not in contents.plans:
            known = ", ".join(sorted(contents.plans)) or "none"
            broken = next((p for p in contents.problems if p.file == f"plans/{plan}.yaml"), None)
            what = (
                f"plan {plan} cannot be used: {broken}"
                if broken
                else f"there is no plan {plan}; known: {known}"
            )
            missing(what, "spec", "plan")
        else:
            self._servers(contents.plans[plan], missing)
        for index, path in enumerate(at.bundle.spec.secrets):
            try:
                if join(at.folder, path) not in contents.secrets:
                    missing(f"there is no valid FleetSecret at {path}", "spec", "secrets", index)
            except ValidationError as error:
                missing(f"{error.message}: {path}", "spec", "secrets", index)
        for index, path in enumerate(at.bundle.spec.source.include):
            self._exists(at, path, missing, "spec", "source", "include", index)
        if at.bundle.spec.remove is None:
            self._exists(at, at.bundle.spec.source.path, missing, "spec", "source", "path")
        if contents.problems_of(name):
            return
        try:
            contents.digests[name] = tree_digest(self.tree, at, contents.secrets_of(name))
        except DocumentError as error:
            self.problem(error.file, error.what, line=error.line, bundle=name)
        except MusterError as error:
            missing(f"{error.message}: {error.object}", "spec", "source", "path")

    def _dependencies(self) -> None:
        """What bundles depend on is there, and none waits for itself."""
        bundles = self.contents.bundles
        needs = {name: [d.name for d in at.bundle.spec.depends_on] for name, at in bundles.items()}
        stuck = _never_start(needs)
        for name, at in bundles.items():
            document = self._bundle_documents[at.file]
            for index, other in enumerate(needs[name]):
                path = ("spec", "dependsOn", index)
                what = ""
                if other not in bundles:
                    what = f"there is no bundle {other}; known: {', '.join(sorted(bundles))}"
                elif stuck.get(name) == other:
                    what = f"{_way(name, stuck)}: none of them could ever start"
                if what:
                    line = document.line_of(path)
                    self.problem(at.file, f"{render_path(path)}: {what}", line=line, bundle=name)

    def _servers(self, plan: RolloutPlan, missing: Callable[..., None]) -> None:
        """The metric servers that a plan's gates ask have to be in fleet.yaml."""
        known = (
            [server.name for server in self.contents.fleet.spec.metric_servers] if self.contents.fleet else []
        )
        for wave in plan.spec.waves:
            for gate in (*wave.gates.before, *wave.gates.after):
                if gate.prometheus and gate.prometheus.server not in known:
                    asked, have = gate.prometheus.server, ", ".join(known) or "none"
                    what = f"wave {wave.name} of plan {plan.metadata.name} asks the metric server {asked}"
                    missing(f"{what}, and fleet.yaml has no such one in metricServers; known: {have}")

    def _exists(self, at: BundleAt, path: str, missing: Callable[..., None], *where: str | int) -> None:
        try:
            root = join(at.folder, path)
        except ValidationError as error:
            missing(f"{error.message}: {path}", *where)
            return
        if all(file.path == at.file for file in self.tree.below((root,))):
            missing(f"nothing is at {path}", *where)

    def _secrets_clash(self) -> None:
        ids: dict[str, str] = {}
        names: dict[str, str] = {}
        for path, secret in self.contents.secrets.items():
            name = f"{secret.metadata.namespace}/{secret.metadata.name}"
            first = ids.setdefault(secret.spec.file_id, path)
            same = names.setdefault(name, path)
            if first != path:
                self.problem(path, f"spec.fileId: {first} has it too; a copied secret must be sealed anew")
            elif same != path:
                self.problem(path, f"metadata.name: {name} is in {same} too")
