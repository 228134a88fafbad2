"""What the agent does, as entries of its audit log.

Owns which doing becomes which entry, and that the same thing said again (a refusal that is tried every minute) is
written once. It never decides anything, and never sees a secret's content: a file's id and numbers are all that it
is given.
"""

from __future__ import annotations

from typing import Any, Protocol

from muster_core.apply.changeset import ChangeSet
from muster_core.kinds.model import FleetSecret
from muster_core.policy import Verdict
from muster_core.release import Release

from muster_agent.state.records import BundleRecord, Enrolment, OfferRecord


class Log(Protocol):
    """The part of :class:`muster_host.auditlog.AuditLog` that is needed here."""

    def record(self, action: str, *, actor: str, object: str, result: str = "ok", **detail: str) -> Any: ...  # noqa: A002

    async def flush(self) -> None: ...


class Witness:
    """``writer`` is the name of the log, ``cluster/<uid>``."""

    def __init__(self, audit: Log, writer: str) -> None:
        self._audit, self._writer = audit, writer
        self._last: dict[str, tuple[str, ...]] = {}

    async def flush(self) -> None:
        """Returns when all that was witnessed is on disk; ``MUSTER-K030`` (retryable) when it cannot be."""
        await self._audit.flush()

    # --- releases ------------------------------------------------------------------------------------------------

    def refused(self, offer: OfferRecord, code: str) -> None:
        """An offer that was not admitted."""
        if self._is_news(f"refusal/{offer.release.bundle}", offer.rollout, str(offer.attempt), code):
            self._write("refusal", offer.release, "refused", code, **_of(offer))

    def denied(self, offer: OfferRecord, code: str, verdict: Verdict) -> None:
        """An offer whose objects a policy forbids; the first verdict stands for all."""
        said = (offer.rollout, str(offer.attempt), verdict.policy, verdict.rule)
        if self._is_news(f"refusal/{offer.release.bundle}", *said):
            self._write("denial", offer.release, "refused", code, policy=verdict.policy, rule=verdict.rule)

    def opened(self, secret: FleetSecret, release: Release) -> None:
        """A secret was opened; the caller flushes before anything of it is applied."""
        spec = secret.spec
        self._audit.record(
            "secret-opened",
            actor=self._writer,
            object=f"secret/{secret.metadata.namespace}/{secret.metadata.name}",
            file=spec.file_id,
            generation=str(spec.key_generation),
            revision=str(spec.revision),
            namespace=secret.metadata.namespace or "",
            **_release(release),
        )

    def unopened(self, secret: FleetSecret, release: Release, code: str) -> None:
        """A secret that does not open here."""
        spec = secret.spec
        if self._is_news(f"unopened/{release.bundle}", spec.file_id, str(spec.revision), code):
            self._audit.record(
                "secret-opened",
                actor=self._writer,
                object=f"secret/{secret.metadata.namespace}/{secret.metadata.name}",
                result="failed",
                code=f"MUSTER-{code}",
                file=spec.file_id,
                generation=str(spec.key_generation),
                revision=str(spec.revision),
                namespace=secret.metadata.namespace or "",
                **_release(release),
            )

    def returning(self, record: BundleRecord) -> None:
        """The bundle goes back to its last healthy release by its own verdict."""
        offer, back = record.offer, record.admission
        if not record.returning or offer is None or back is None:
            return
        if self._is_news(f"return/{offer.release.bundle}", offer.rollout, str(offer.attempt)):
            self._write("return", back.release, "ok", "", **_of(offer), **{"from": offer.release.commit})

    def applied(self, record: BundleRecord, release: Release, changes: ChangeSet) -> None:
        """One pass of apply; nothing is written of one that changed nothing."""
        errors, healed = changes.errors, len(changes.healed)
        code = errors[0].error.code if errors and errors[0].error else ""
        if healed:
            self._write("heal", release, "ok", "", corrected=str(healed))
        pruned = sum(change.action == "pruned" for change in changes.changes)
        wrote = changes.writes - healed
        is_news = self._is_news(f"apply/{release.bundle}", release.commit, code)
        if wrote > 0 or (code and is_news):
            self._write(
                "apply",
                release,
                "failed" if code else "ok",
                code,
                **(_of(record.offer) if record.offer else {}),
                applied=str(max(0, wrote - pruned)),
                pruned=str(pruned),
            )

    # --- who this is ---------------------------------------------------------------------------------------------

    def joined(self, enrolment: Enrolment, identity: str) -> None:
        self._audit.record(
            "join",
            actor=self._writer,
            object=f"cluster/{enrolment.cluster}",
            identity=identity,
            mode=enrolment.mode,
            trust=enrolment.trust_digest,
            edge=enrolment.edge_address,
        )

    def renewal(self, enrolment: Enrolment, code: str = "") -> None:
        """A certificate is asked for with this counter, or was refused with ``code``."""
        self._audit.record(
            "renewal",
            actor=self._writer,
            object=f"cluster/{enrolment.cluster}",
            result="refused" if code else "ok",
            code=f"MUSTER-{code}" if code else "",
            counter=str(enrolment.renewals),
        )

    # --- floors and trust ----------------------------------------------------------------------------------------

    def regressed(self, floor: str, reported: str) -> None:
        self._audit.record(
            "floor-regressed",
            actor=self._writer,
            object="fleet",
            result="refused",
            code="MUSTER-T015",
            repository="fleet",
            floor=floor,
            reported=reported,
        )

    def acknowledged(self, floor: str) -> None:
        """The coordinator says that an operator has seen the regressed floor."""
        self._audit.record(
            "floor-acknowledged", actor="coordinator", object="fleet", repository="fleet", floor=floor
        )

    def trusting(self, before: int, after: int) -> None:
        """A newer trust document holds."""
        detail = {"from": str(before), "to": str(after)}
        self._audit.record("trust-changed", actor=self._writer, object="trust", **detail)

    def _write(self, action: str, release: Release, result: str, code: str, **detail: str) -> None:
        self._audit.record(
            action,
            actor=self._writer,
            object=f"bundle/{release.bundle}",
            result=result,
            code=f"MUSTER-{code}" if code else "",
            **_release(release),
            **detail,
        )

    def _is_news(self, what: str, *said: str) -> bool:
        if self._last.get(what) == said:
            return False
        self._last[what] = said
        return True


def _release(release: Release) -> dict[str, str]:
    return {"bundle": release.bundle, "commit": release.commit, "tree": release.tree_digest}


def _of(offer: OfferRecord) -> dict[str, str]:
    return {"rollout": offer.rollout, "attempt": str(offer.attempt)}
