"""One etcd that several API servers may share."""

from __future__ import annotations

import json
import secrets
import time
from pathlib import Path
from typing import Self

from . import ports
from .binaries import require_real
from .programs import Program
from .service import DEADLINE, PORT_TRIES, Service


class Etcd(Service):
    """One etcd without fsync. Several clusters share it, each under its own prefix."""

    def __init__(self, *, folder: Path | None = None, deadline: float = DEADLINE) -> None:
        super().__init__(folder, deadline)
        self.name = f"etcd-{secrets.token_hex(8)}"
        self.port = 0
        self.program: Program | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> Self:
        if self.program is not None:
            return self
        self.make_folder("etcd")
        try:
            for attempt in range(PORT_TRIES):
                self.port = ports.free_port()
                self.program = Program(require_real("etcd"), self.arguments(), self.folder / "etcd.log")
                if self.ready(self.program, last=attempt == PORT_TRIES - 1):
                    return self
        except BaseException:
            self.close(keep=True)
            raise
        raise AssertionError("unreachable")

    def arguments(self) -> list[str]:
        return [
            f"--name={self.name}",
            f"--data-dir={self.folder / 'data'}",
            f"--listen-client-urls={self.url}",
            f"--advertise-client-urls={self.url}",
            "--listen-peer-urls=http://127.0.0.1:0",
            "--unsafe-no-fsync",
            "--log-level=warn",
        ]

    def ready(self, program: Program, *, last: bool) -> bool:
        """False: another process took the port between choosing and listening, so choose again."""
        end = time.monotonic() + self.deadline
        while time.monotonic() < end:
            if program.process.poll() is not None:
                if program.lost_its_port() and not last:
                    program.stop(graceful=False)
                    return False
                break
            status, answer = ports.ask(self.port, "/v3/cluster/member/list", context=None, body=b"{}")
            # By name: another run's etcd may have taken the port, and answers as well as ours would.
            if status == 200 and [m.get("name") for m in json.loads(answer)["members"]] == [self.name]:
                return True
            time.sleep(0.05)
        raise program.failure("etcd did not become healthy")

    def close(self, *, keep: bool = False) -> None:
        if self.program is not None:
            self.program.stop(graceful=False)
            self.program = None
        if not keep:
            self.remove_folder()
