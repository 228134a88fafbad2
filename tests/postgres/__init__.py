"""A real PostgreSQL for tests: the machine's own server, on loopback, in a folder of its own, ended with the test process.

Owns finding the programs, a user to run them as (PostgreSQL refuses to run as root), one server per test process, and a fresh
database for each test. It never uses a server that runs already, and it never installs one.

    with open_postgres() as server:          # skips, or fails where MUSTER_REQUIRE_REAL=1, when there is none
        url = server.database()               # postgresql://muster:password@127.0.0.1:port/name
"""

from __future__ import annotations

import itertools
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest
from realcluster.programs import guard

FOLDERS = ("/usr/lib/postgresql", "/usr/local/pgsql", "/opt/homebrew/opt", "/usr/pgsql")
WHY = (
    "needs a real PostgreSQL server: install Debian's (`apt-get install postgresql`), "
    "or MUSTER_POSTGRES_BIN names a folder with initdb and postgres"
)
READY_SECONDS = 30.0
# Tests kill coordinators, never this server, and no test needs its data after a power cut.
SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "60",
    "shared_buffers": "16MB",
    "listen_addresses": "127.0.0.1",
    "logging_collector": "off",
    "password_encryption": "scram-sha-256",
    "log_statement": "none",
}


def find_programs() -> Path | None:
    """The folder with ``initdb`` and ``postgres``: named, on PATH, or the newest that the system has."""
    named = os.environ.get("MUSTER_POSTGRES_BIN")
    if named:
        folders = [Path(named)]
    else:
        on_path = shutil.which("initdb")
        folders = [Path(on_path).resolve().parent] if on_path else []
        found = [path.parent for place in FOLDERS for path in Path(place).glob("*/bin/initdb")]
        folders += sorted(found, key=_version, reverse=True)
    return next((f for f in folders if (f / "initdb").exists() and (f / "postgres").exists()), None)


def _version(folder: Path) -> tuple[int, ...]:
    return tuple(int(part) for part in folder.parent.name.split(".") if part.isdigit())


def _owner() -> pwd.struct_passwd | None:
    """Whom to run it as; None when that is who we are."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    pytest.fail("PostgreSQL does not run as root, and there is no user postgres or nobody", pytrace=False)


@dataclass
class Postgres:
    """A running server. ``stop`` and ``start`` keep its folder and port."""

    programs: Path
    folder: Path
    password: str = field(default_factory=lambda: secrets.token_urlsafe(18))
    port: int = 0
    process: subprocess.Popen[bytes] | None = None
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def _run(self, *argv: str) -> subprocess.Popen[bytes]:
        owner = _owner()
        identity: dict[str, object] = (
            {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []} if owner else {}
        )
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env={"PATH": os.environ.get("PATH", "/usr/bin:/bin"), "LC_ALL": "C.UTF-8", "TZ": "UTC"},
                start_new_session=True,
                **identity,  # type: ignore[call-overload]
            )

    def create(self) -> None:
        """An empty cluster with one superuser, ``muster``, who needs a password."""
        owner = _owner()
        word = self.folder / "password"
        word.write_text(self.password)
        if owner:
            for path in (self.folder, word):
                os.chown(path, owner.pw_uid, owner.pw_gid)
        made = self._run(
            str(self.programs / "initdb"), "-D", str(self.folder / "data"), "-U", "muster", "-A", "scram-sha-256",
            "--pwfile", str(word), "-E", "UTF8", "--no-locale", "--no-sync",
        )  # fmt: skip
        assert made.wait(60) == 0, self.said()
        word.unlink()

    def start(self) -> None:
        if not self.port:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.port = probe.getsockname()[1]
        settings = SETTINGS | {"port": str(self.port), "unix_socket_directories": str(self.folder)}
        flags = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        self.process = self._run(str(self.programs / "postgres"), "-D", str(self.folder / "data"), *flags)
        guard.tell("+", self.process.pid)
        end = time.monotonic() + READY_SECONDS
        while True:
            try:
                psycopg.connect(self.url("postgres"), connect_timeout=5).close()
                return
            except psycopg.OperationalError:
                assert self.process.poll() is None, self.said()
                assert time.monotonic() < end, self.said()
                time.sleep(0.05)

    def stop(self) -> None:
        """At once: who is connected is cut off."""
        if self.process is not None:
            self.process.send_signal(signal.SIGQUIT)
            self.process.wait(20)
            guard.tell("-", self.process.pid)
            self.process = None

    def url(self, database: str) -> str:
        return f"postgresql://muster:{self.password}@127.0.0.1:{self.port}/{database}"

    def ask(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """One statement of the superuser, by itself."""
        with psycopg.connect(self.url(database), autocommit=True, connect_timeout=5) as connection:
            cursor = connection.execute(statement)  # type: ignore[call-overload]
            return cursor.fetchall() if cursor.description else []

    def database(self) -> str:
        """The URL of a new, empty database."""
        name = f"fleet_{os.getpid()}_{next(self._numbers)}"
        self.ask(f"CREATE DATABASE {name}")
        return self.url(name)

    def said(self) -> str:
        return "\n".join((self.folder / "log").read_text(errors="replace").splitlines()[-30:])


@contextmanager
def open_postgres() -> Iterator[Postgres]:
    """A started server, for the body of a fixture."""
    programs = find_programs()
    if programs is None:
        if os.environ.get("MUSTER_REQUIRE_REAL") == "1":
            pytest.fail(WHY, pytrace=False)
        pytest.skip(WHY)
    folder = Path(tempfile.mkdtemp(prefix="muster-postgres-"))
    server = Postgres(programs, folder)
    try:
        server.create()
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
