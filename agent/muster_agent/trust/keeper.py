"""The trust document that holds now, and who signed a commit by it.

Owns the chain from the document that the join pinned, its record on disk, and the time that trust is judged at:
never earlier than the newest time that a valid signature has shown. It fails closed: without a document nothing is
taken.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import structlog
from muster_core.errors import MusterError, TrustError
from muster_core.times import parse_time
from muster_core.tree import Tree
from muster_core.trust.authority import TRUST_PATH, signer_of
from muster_core.trust.documents import TrustDocument, accept_first, accept_next, decode
from muster_core.trust.gitobject import parse_object

from muster_agent.source.repository import SourceRepository
from muster_agent.state.port import StatePort
from muster_agent.state.records import Enrolment, HeadsRecord, TrustRecord

log = structlog.get_logger()

MODES = ("signed-commits", "directives", "both", "open")
MAX_STEPS = 1_000
KEPT_HEADS = 512
MAX_AHEAD = 86_400.0
_NUMBER = re.compile(r"\d+")


class TrustKeeper:
    """``clock`` gives unix seconds."""

    def __init__(
        self, state: StatePort, source: SourceRepository, enrolment: Enrolment, clock: Callable[[], float]
    ) -> None:
        if enrolment.mode not in MODES:
            raise TrustError(
                "T001",
                f"the mode {enrolment.mode} is not known to this agent",
                hint="It could not hold to it, so it takes nothing. Update the agent.",
            )
        self.mode = enrolment.mode
        self._state, self._source, self._enrolment, self._clock = state, source, enrolment, clock
        self._record = state.get("trust", TrustRecord) or TrustRecord()
        self._heads = state.get("heads", HeadsRecord) or HeadsRecord()
        self._document = decode(self._record.document.encode()).document if self._record.document else None

    @property
    def is_open(self) -> bool:
        return self.mode == "open"

    @property
    def version(self) -> int:
        """Of the document that holds; 0 before the first."""
        return self._document.version if self._document else 0

    @property
    def document(self) -> TrustDocument:
        """``MUSTER-T002`` before the first one was found."""
        if self._document is None:
            raise TrustError(
                "T002",
                "no trust document was found yet that the join token names",
                object=self._enrolment.cluster,
                retryable=True,
                hint="It must be at trust/<N>.json of the fleet repository: muster trust verify.",
            )
        return self._document

    def was_head(self, commit: str) -> bool:
        """Whether this commit was accepted as a head of the fleet's branch."""
        return commit in self._heads.commits

    def saw_heads(self, commits: Sequence[str]) -> None:
        """Remembers accepted heads, the newest few hundred."""
        kept = dict.fromkeys((*self._heads.commits, *commits))
        self._heads = HeadsRecord(tuple(kept)[-KEPT_HEADS:])
        self._state.put("heads", self._heads)

    def now(self) -> float:
        """The later of the system's clock and the newest time that was signed: a clock set back gains nothing."""
        return max(self._clock(), self._record.latest)

    def saw_time(self, seconds: float) -> None:
        """A time out of something whose signature held; one far ahead of the clock moves it a day at most."""
        seconds = min(seconds, self._clock() + MAX_AHEAD)
        if seconds > self._record.latest:
            self._keep(self._record.document, seconds)

    def require_current(self) -> None:
        """``MUSTER-T065`` when the document has expired: what runs goes on, new releases wait."""
        if not self.is_open and self.now() >= parse_time(self.document.expires):
            raise TrustError(
                "T065",
                f"the trust document expired at {self.document.expires}",
                object=f"trust/{self.version}.json",
                hint="Sign the next version: muster trust sign. What runs is kept and healed meanwhile.",
            )

    def take_documents(self, tree: Tree) -> None:
        """Follows the chain as far as this tree has it. It proves itself, so the tree may be of any commit.

        Raises what is wrong with the first document that does not follow; those before it are kept.
        """
        if self.is_open:
            return
        files = {
            int(number[0]): file.path
            for file in tree.files()
            if TRUST_PATH.match(file.path) and (number := _NUMBER.search(file.path))
        }
        if self._document is None:
            self._take_first(tree, files)
        for _ in range(MAX_STEPS):
            path = files.get(self.version + 1)
            if path is None or self._document is None:
                return
            data = tree.read(path)
            document = accept_next(self._document, decode(data, path))
            self._accept(document, data)

    def _take_first(self, tree: Tree, files: dict[int, str]) -> None:
        for _, path in sorted(files.items()):
            data = tree.read(path)
            try:
                signed = decode(data, path)
            except MusterError as error:
                log.warning("a trust document cannot be read", file=path, error=str(error))
                continue
            if signed.document.digest == self._enrolment.trust_digest:
                document = accept_first(
                    signed, fleet=self._enrolment.fleet_id, digest=self._enrolment.trust_digest
                )
                self._accept(document, data)
                return

    def _accept(self, document: TrustDocument, data: bytes) -> None:
        self._document = document
        self._keep(data.decode(), self._record.latest)
        self.saw_time(parse_time(document.issued))
        log.info("trust document accepted", version=document.version, expires=document.expires)

    def _keep(self, document: str, latest: float) -> None:
        self._record = TrustRecord(document, latest)
        self._state.put("trust", self._record)

    async def signers(self, commit: str) -> set[str]:
        """Fingerprints of the known keys that signed this commit, or a release tag of it.

        Raises the reason, when there is none: ``T040`` unsigned, ``T041`` unknown key, or what its verifier found.
        """
        found, problem = set[str](), None
        try:
            signed = parse_object("commit", await self._source.raw("commit", commit))
            found.add(signer_of(signed, self.document, now=self.now()))
        except TrustError as error:
            problem = error
        for name, data in await self._source.tags(commit):
            try:
                tag = parse_object("tag", data)
                if tag.name != name or (tag.target, tag.target_kind) != (commit, "commit"):
                    raise TrustError("T044", "a tag's own name or target is not that of its ref", object=name)
                found.add(signer_of(tag, self.document, now=self.now()))
            except TrustError as error:
                problem = error if problem is None or problem.code == "T040" else problem
        if not found and problem is not None:
            raise TrustError(
                problem.code, problem.message, object=problem.object or commit[:12], hint=problem.hint
            )
        return found
