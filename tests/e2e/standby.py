"""Two coordinators as processes on one PostgreSQL database, with a fleet of stubs that dial one address.

Owns starting, killing and telling apart who leads; what is said on standard output is read by a thread, so that nobody waits
for a line that does not come. Each has a data folder of its own; the link and edge addresses are the same.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import psycopg
from bench.programs import FleetRepository
from e2e.programs import free_port, until
from muster_proto.v1 import operator_pb2 as op
from muster_proto.v1 import operator_pb2_grpc

# The server gives a leader that is silent 5 s instead of 20; it is asked once a second.
IMPATIENT = (
    "from muster_coordinator.store.sql import postgres; postgres.SEAT |= "
    "{'idle_session_timeout': '5s', 'idle_in_transaction_session_timeout': '5s'}; "
)
MUSTER = "from muster_cli.main import main; main()"
SHARED = ("ca.crt", "ca.key", "admin-token")


@dataclass
class Hub:
    """One coordinator over its lives. ``events`` are its lines of JSON of this life."""

    name: str
    folder: Path
    argv: list[str]
    process: subprocess.Popen[str] | None = None
    events: list[dict[str, Any]] = field(default_factory=list)
    _reader: threading.Thread | None = None

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                self.argv, stdout=subprocess.PIPE, stderr=log, text=True,
                env={**os.environ, "GRPC_VERBOSITY": "NONE"},
            )  # fmt: skip
        self.events = []
        self._reader = threading.Thread(
            target=self._read, args=(self.process.stdout, self.events), daemon=True
        )
        self._reader.start()

    @staticmethod
    def _read(stdout: Any, events: list[dict[str, Any]]) -> None:
        events.extend(json.loads(line) for line in stdout)

    def says(self, event: str) -> dict[str, Any] | None:
        return next((found for found in self.events if found["event"] == event), None)

    def signal(self, number: int = signal.SIGKILL) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def ended(self, seconds: float = 20.0) -> int:
        """Its exit code, when it ends."""
        assert self.process is not None
        assert self._reader is not None
        code = self.process.wait(seconds)
        self._reader.join(10)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process = None
        return code

    def kill(self) -> None:
        if self.process is not None:
            self.signal(signal.SIGCONT)
            self.signal()
            self.ended()

    def said(self) -> str:
        return "\n".join(self.log.read_text().splitlines()[-25:]) if self.log.exists() else ""

    def readiness(self) -> tuple[int, str]:
        """Of ``/readyz``."""
        address = self.events[-1]["metrics"]
        try:
            with urllib.request.urlopen(f"http://{address}/readyz", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()


@dataclass
class Pair:
    """What ``StubFleet`` needs of a coordinator, whoever leads."""

    folder: Path
    url: str
    repository: FleetRepository
    hubs: list[Hub]
    edge: str
    prelude: str

    # --- programs ---------------------------------------------------------------------------------------------

    def leader(self) -> Hub | None:
        return next((hub for hub in self.hubs if hub.process and hub.says("ready")), None)

    def leads(self, hub: Hub, seconds: float = 40.0) -> None:
        until(lambda: hub.says("ready"), seconds, self.logs)

    def waits(self, hub: Hub, seconds: float = 40.0) -> None:
        until(lambda: hub.says("standby"), seconds, self.logs)

    def hand_over_keys(self, source: Hub, to: Hub) -> None:
        to.data.mkdir(parents=True, exist_ok=True)
        for name in SHARED:
            shutil.copy(source.data / name, to.data / name)

    def both(self) -> tuple[Hub, Hub]:
        """(the leader, the standby), started."""
        first, second = self.hubs
        first.start()
        self.leads(first)
        self.hand_over_keys(first, second)
        second.start()
        self.waits(second)
        return first, second

    def logs(self) -> str:
        return "\n".join(f"--- {hub.name} {hub.events}\n{hub.said()}" for hub in self.hubs)

    def alone(self, folder_name: str, name: str = "") -> Hub:
        """One more coordinator of the database, at addresses of its own; ``name`` when it is not its folder's."""
        folder, (link, edge) = self.folder / folder_name, (f"127.0.0.1:{free_port()}" for _ in range(2))
        url_file = self.folder / "database.url"
        argv = hub_argv(self.prelude, folder, url_file, self.repository.url, link, edge, name or folder_name)
        return Hub(folder_name, folder, argv)

    # --- the operator's calls -----------------------------------------------------------------------------------

    @property
    def context(self) -> Path:
        return self.hubs[0].data / "context.json"

    def call(self, method: str, request: Any, edge: str = "") -> Any:
        """At the shared address, or at another coordinator's own."""
        data = self.hubs[0].data
        metadata = [("authorization", f"Bearer {(data / 'admin-token').read_text().strip()}")]
        credentials = grpc.ssl_channel_credentials((data / "ca.crt").read_bytes())
        with grpc.secure_channel(edge or self.edge, credentials) as channel:
            stub = operator_pb2_grpc.OperatorStub(channel)
            return getattr(stub, method)(request, metadata=metadata, timeout=30, wait_for_ready=True)

    def refresh(self) -> None:
        self.call("Refresh", op.RefreshRequest())

    def takes_over(self, standby: Hub) -> float:
        """Waits until a standby leads; seconds."""
        begun = time.monotonic()
        self.leads(standby)
        return time.monotonic() - begun

    def rows(self, query: str, *values: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            return connection.execute(query, values).fetchall()  # type: ignore[call-overload]


def hub_argv(
    prelude: str, folder: Path, url_file: Path, repository: str, link: str, edge: str, name: str
) -> list[str]:
    return [
        sys.executable, "-c", prelude + MUSTER, "serve", f"--data-dir={folder / 'data'}", f"--repository={repository}",
        f"--link={link}", f"--edge={edge}", "--metrics=127.0.0.1:0", "--poll=60s", f"--name={name}",
        f"--database-file={url_file}",
    ]  # fmt: skip


@contextmanager
def pair(folder: Path, url: str, files: dict[str, str], prelude: str = IMPATIENT) -> Iterator[Pair]:
    """A fleet repository and two coordinators that were not started yet."""
    url_file = folder / "database.url"
    url_file.write_text(url + "\n")
    repository = FleetRepository.make(folder / "git", files)
    link, edge = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    hubs = [
        Hub(name, folder / name, hub_argv(prelude, folder / name, url_file, repository.url, link, edge, name))
        for name in ("one", "two")
    ]
    found = Pair(folder, url, repository, hubs, edge, prelude)
    try:
        yield found
    finally:
        for hub in hubs:
            hub.kill()


def eventually(what: Callable[[], object], found: Pair, seconds: float = 40.0) -> None:
    until(what, seconds, found.logs)
