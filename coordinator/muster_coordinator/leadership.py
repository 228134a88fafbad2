"""Which of several coordinators leads a shared database: one does, the others wait for it to end.

Owns the wait, the beat that keeps the seat, and the check that a standby could stand in: the same CA, an admin token, a name
of its own. A standby has no listeners, so agents and operators reach whoever leads. It never shares work, and never leads
again after it lost the seat: the program ends, and started anew it waits.
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import anyio
import anyio.to_thread
import structlog
from muster_core.errors import MusterError

from muster_coordinator import folder as files
from muster_coordinator.store.port import StoreError
from muster_coordinator.store.sql.postgres import PostgresPlace
from muster_coordinator.store.sql.store import SqlStore

log = structlog.get_logger()
POLL_SECONDS = 0.5
BEAT_SECONDS = 1.0
CA, NAME = "ca", "coordinator/"
_END = "-----END CERTIFICATE-----"


class Identity(NamedTuple):
    """Who this coordinator is to the others; ``authorities`` are SHA-256 of the CAs it believes, the signing one first."""

    name: str
    instance: str
    authorities: Sequence[str]
    folder: Path

    def check(self, known: Mapping[str, str]) -> None:
        """What the database knows of its coordinators; ``MUSTER-L055`` or ``L065`` when this one cannot be one of them."""
        authority, owner = known.get(CA), known.get(NAME + self.name)
        if authority is not None and authority not in self.authorities:
            raise _other_authority("it has another CA than", self.folder)
        if owner is not None and owner != self.instance:
            raise StoreError(
                "L065",
                "another coordinator of this database has this name",
                object=self.name,
                hint="Each writes an audit log under its own: pass another --name.",
            )

    def facts(self) -> dict[str, str]:
        """What a leader writes down."""
        return {CA: self.authorities[0], NAME + self.name: self.instance}


def check_files(known: Mapping[str, str], folder: Path) -> None:
    """Before a CA is made: a database that knows one belongs to it. ``MUSTER-L055`` names what is missing."""
    wanted = (*files.AUTHORITY, files.ADMIN_TOKEN)
    missing = [name for name in wanted if not (folder / name).exists()]
    if CA in known and missing:
        raise _other_authority(f"it has no {', '.join(missing)} of", folder)


def _other_authority(what: str, folder: Path) -> StoreError:
    return StoreError(
        "L055",
        f"this data folder does not fit the database: {what} the coordinators that used it",
        object=str(folder),
        hint=f"Copy {', '.join(files.AUTHORITY)} and {files.ADMIN_TOKEN} from the data folder of one of them, or restore a "
        "backup.",
    )


def fingerprints(pem: bytes) -> list[str]:
    """SHA-256 of each certificate of a bundle, in its order."""
    texts = [part + _END for part in pem.decode().split(_END)[:-1]]
    return [hashlib.sha256(ssl.PEM_cert_to_DER_cert(text.strip())).hexdigest() for text in texts]


async def known(place: PostgresPlace) -> Mapping[str, str]:
    return await anyio.to_thread.run_sync(place.facts)


async def wait_to_lead(place: PostgresPlace, identity: Identity, waits: Callable[[], None]) -> None:
    """Returns with the seat. ``waits`` hears once that another leads.

    Before anybody waits an unreachable database is an error; afterwards it is waited for.
    """
    waiting, trouble = False, ""
    while True:
        try:
            identity.check(await known(place))
            if await anyio.to_thread.run_sync(place.try_lead):
                break
            trouble = ""
            if not waiting:
                waiting = True
                waits()
        except MusterError as error:
            if not (waiting and error.retryable):
                raise
            if trouble != error.message:
                trouble = error.message
                log.warning("the standby waits for the database", error=str(error))
        await anyio.sleep(POLL_SECONDS)
    identity.check(await known(place))  # who led meanwhile may have been the first


async def begin(place: PostgresPlace, identity: Identity) -> SqlStore:
    """With the seat: the store, on tables of this version, in a new term."""
    store = await SqlStore.on(place)
    try:
        await store.exclusively(lambda: place.begin_term(identity.facts()))
    except BaseException:
        await store.close()
        raise
    return store


async def keep(place: PostgresPlace, store: SqlStore) -> None:
    """For ever, or until the seat is lost: then it raises, which ends the program."""
    while True:
        await anyio.sleep(BEAT_SECONDS)
        await store.exclusively(place.still_leads)
