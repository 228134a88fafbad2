"""What the agent's tests stand on: real bare repositories and a whole small fleet in one."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

KIND = "apiVersion: muster.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {spec}\n"
FLEET_ID = "0123456789abcdef"
FLEET = KIND.format(kind="Fleet", name="acme", spec="{id: " + FLEET_ID + ", defaults: {plan: rings}}")
PLAN = KIND.format(kind="RolloutPlan", name="rings", spec="{waves: [{name: all, rest: true}]}")


def bundle(spec: str = "", name: str = "shop") -> str:
    return KIND.format(
        kind="Bundle", name=name, spec="{targets: [{selector: {}}], namespace: shop" + spec + "}"
    )


def config_map(name: str, value: str, namespace: str = "") -> str:
    where = f", namespace: {namespace}" if namespace else ""
    return f"apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}{where}}}\ndata: {{a: {value!r}}}\n"


NAMESPACE = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n"


def fleet(**more: str) -> dict[str, str]:
    """A good fleet with bundle shop; keywords are not needed for most tests."""
    files = {
        "fleet.yaml": FLEET,
        "plans/rings.yaml": PLAN,
        "bundles/shop/bundle.yaml": bundle(),
        "bundles/shop/namespace.yaml": NAMESPACE,
        "bundles/shop/map.yaml": config_map("web", "one"),
    }
    return files | more


@dataclass(frozen=True, slots=True)
class Origin:
    """A bare repository that others push to, and a clone to push from."""

    folder: Path
    signer: Path | None = None

    @property
    def url(self) -> str:
        return f"file://{self.folder / 'origin.git'}"

    @classmethod
    def make(cls, folder: Path) -> Origin:
        folder.mkdir(parents=True, exist_ok=True)
        origin = cls(folder)
        origin.git("init", "-q", "--bare", "-b", "main", "origin.git")
        origin.git("init", "-q", "-b", "main", "work")
        return origin

    def git(self, *args: str, inside: str = "") -> str:
        environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
        return subprocess.run(
            ["git", "-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "gpg.format=ssh", *args],
            cwd=self.folder / inside, env=environment, check=True, capture_output=True, text=True,
        ).stdout.strip()  # fmt: skip

    def commit(self, files: Mapping[str, str | None], branch: str = "main", *, force: bool = False) -> str:
        """Writes (or, for None, removes) files on top of the branch, pushes, returns the commit."""
        heads = self.git("branch", "--list", "--format=%(refname:short)", inside="work").split()
        if branch in heads:
            self.git("checkout", "-q", branch, inside="work")
        elif heads:
            self.git("checkout", "-q", "--orphan", branch, inside="work")
            self.git("rm", "-q", "-rf", ".", inside="work")
        for path, text in files.items():
            target = self.folder / "work" / path
            if text is None:
                target.unlink()
            else:
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(text)
        self.git("add", "-A", inside="work")
        self.git("commit", "-q", "--allow-empty", "-m", "change", *self._signing("-S"), inside="work")
        return self.push(branch, force=force)

    def signed_by(self, key: Path | None) -> Origin:
        """The same repository, whose commits are signed with an SSH key (its public half beside it), or with none."""
        return Origin(self.folder, key)

    def _signing(self, flag: str) -> list[str]:
        return [f"{flag}{self.signer}"] if self.signer else []

    def tag(self, name: str, commit: str) -> None:
        """A signed tag, pushed."""
        self.git("tag", "-f", *self._signing("-u"), "-m", "approve", name, commit, inside="work")
        self.git("push", "-q", "-f", str(self.folder / "origin.git"), f"refs/tags/{name}", inside="work")

    def push(self, branch: str = "main", *, force: bool = False) -> str:
        extra = ["--force"] if force else []
        self.git("push", "-q", *extra, str(self.folder / "origin.git"), branch, inside="work")
        return self.git("rev-parse", branch, inside="work")
