"""A Git host that lies: a process of its own, which serves repositories over HTTPS as a script tells it to.

Why it exists: attacks on the agent by whoever runs the Git host must come over the real wire. ``python
tests/attack/hostile_git.py --root FOLDER`` serves every bare repository below ``FOLDER`` with ``git http-backend``;
``FOLDER/script.json``, read at each request, says how it lies. Every request is a line of ``FOLDER/requests.jsonl``.
:class:`HostileGit` is the test's hand on such a process.

The script, all parts optional:

``serve``   the repository to serve instead of the one asked for; of several, the next one at each new advertisement
``refs``    {ref: id (and ` peeled:ID`), or null to hide it}: what the answer to ``ls-refs`` says instead
``say``     {"advertise" | "refs" | "fetch": how}, how is ``stall`` (headers, then nothing), ``drip`` (a progress byte
            every fifth of a second, for ever), ``endless`` (refs, or a pack with one blob, that never end), ``cut``
            (half of the true answer), ``dumb`` (files of the repository, as a host without git serves them),
            ``unauthorized`` (401)
``redirect`` a URL to which every request is sent on

Protocol: gitprotocol-v2, gitprotocol-http, gitformat-pack.
"""

from __future__ import annotations

import argparse
import datetime
import ipaddress
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

SCRIPT, REQUESTS, CERTIFICATE, KEY = "script.json", "requests.jsonl", "host.crt", "host.key"
CHUNK = 60_000
FLUSH = b"0000"


def packet(data: bytes) -> bytes:
    return f"{len(data) + 4:04x}".encode() + data


class Host:
    """Serves every repository below ``root``."""

    def __init__(self, root: Path) -> None:
        self._root, self._turn = root, 0
        self._git = shutil.which("git") or "git"

    async def handle(self, request: web.Request) -> web.StreamResponse:
        script = json.loads((self._root / SCRIPT).read_text())
        body = await request.read()
        what = _what(request, body)
        with (self._root / REQUESTS).open("a") as log:
            seen = {
                "method": request.method, "path": request.path_qs, "what": what,
                "authorization": request.headers.get("Authorization", ""), "cookie": request.headers.get("Cookie", ""),
            }  # fmt: skip
            log.write(json.dumps(seen) + "\n")
        if "redirect" in script:
            raise web.HTTPFound(script["redirect"] + request.path_qs)
        how = script.get("say", {}).get(what, "")
        if what == "advertise":
            self._turn += 1
        if how == "dumb" or what == "file":
            return self._file(request)
        if how == "unauthorized":
            raise web.HTTPUnauthorized(headers={"WWW-Authenticate": 'Basic realm="git"'})
        if how in {"stall", "drip", "endless"}:
            return await self._for_ever(request, what, how)
        answer = await self._backend(request, body, self._repository(request, script))
        if what == "refs" and "refs" in script:
            answer.body = _other_refs(answer.body or b"", script["refs"])  # type: ignore[arg-type]
        if how == "cut":
            return await self._half(request, answer)
        return answer

    def _repository(self, request: web.Request, script: dict[str, Any]) -> str:
        serve = script.get("serve") or request.match_info["repository"]
        return str(serve if isinstance(serve, str) else serve[self._turn % len(serve)])

    def _file(self, request: web.Request) -> web.StreamResponse:
        path = self._root / request.match_info["repository"] / request.match_info["rest"]
        if not path.is_file():
            raise web.HTTPNotFound
        return web.Response(body=path.read_bytes(), content_type="text/plain")

    async def _for_ever(self, request: web.Request, what: str, how: str) -> web.StreamResponse:
        kind = "advertisement" if what == "advertise" else "result"
        response = web.StreamResponse(headers={"Content-Type": f"application/x-git-upload-pack-{kind}"})
        await response.prepare(request)
        if how == "stall":
            while not _gone(request):
                await anyio.sleep(0.2)
        if how == "drip":
            await response.write(packet(b"packfile\n") if what == "fetch" else b"")
            while not _gone(request):
                await response.write(packet(b"\x02."))
                await anyio.sleep(0.2)
        if what == "refs":
            number = 0
            while not _gone(request):
                lines = (f"{n:040x} refs/heads/main-{n}\n".encode() for n in range(number, number + 500))
                await response.write(b"".join(packet(line) for line in lines))
                number += 500
                await anyio.lowlevel.checkpoint()
        if _gone(request):
            return response
        await response.write(packet(b"packfile\n"))
        await response.write(packet(b"\x01" + _pack_head()))
        store = zlib.compressobj(0)
        while not _gone(request):
            await anyio.lowlevel.checkpoint()  # else nobody notices that the other side went away
            data = store.compress(os.urandom(CHUNK)) + store.flush(zlib.Z_SYNC_FLUSH)
            for start in range(0, len(data), CHUNK):
                await response.write(packet(b"\x01" + data[start : start + CHUNK]))
        return response

    async def _half(self, request: web.Request, answer: web.Response) -> web.StreamResponse:
        data = bytes(answer.body or b"")  # type: ignore[arg-type]
        response = web.StreamResponse(headers={"Content-Type": answer.headers["Content-Type"]})
        response.content_length = len(data)
        await response.prepare(request)
        await response.write(data[: len(data) // 2])
        if request.transport is not None:
            request.transport.close()
        return response

    async def _backend(self, request: web.Request, body: bytes, repository: str) -> web.Response:
        environment = {
            "PATH": os.environ.get("PATH", ""),
            "GIT_PROJECT_ROOT": str(self._root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_NOSYSTEM": "1",
            "HOME": str(self._root),
            "PATH_INFO": f"/{repository}/{request.match_info['rest']}",
            "QUERY_STRING": request.query_string,
            "REQUEST_METHOD": request.method,
            "CONTENT_TYPE": request.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": request.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": request.headers.get("Git-Protocol", ""),
            "REMOTE_ADDR": request.remote or "",
        }
        done = await anyio.run_process(
            [self._git, "-c", "uploadpack.allowAnySHA1InWant=true", "http-backend"],
            input=body, env=environment, check=False, stderr=subprocess.PIPE,
        )  # fmt: skip
        head, _, data = done.stdout.partition(b"\r\n\r\n")
        status, headers = 200, {}
        for line in head.decode("latin-1").split("\r\n"):
            name, _, value = line.partition(":")
            if name.lower() == "status":
                status = int(value.split()[0])
            elif name:
                headers[name] = value.strip()
        return web.Response(status=status, headers=headers, body=data)


def _gone(request: web.Request) -> bool:
    return request.transport is None or request.transport.is_closing()


def _what(request: web.Request, body: bytes) -> str:
    if request.path.endswith("/info/refs"):
        return "advertise"
    if request.path.endswith("/git-upload-pack"):
        return "refs" if b"command=ls-refs" in body else "fetch"
    return "file"


def _other_refs(answer: bytes, others: dict[str, str | None]) -> bytes:
    """An answer to ``ls-refs`` with other ids for some refs; peeled ids of those are left out."""
    lines, rest = list[bytes](), answer
    while rest and not rest.startswith(FLUSH):
        size = int(rest[:4], 16)
        oid, ref, *_ = rest[4:size].decode().split()
        if ref not in others:
            lines.append(f"{oid} {ref}\n".encode())
        rest = rest[size:]
    for ref, said in others.items():
        oid, _, peeled = (said or "").partition(" ")
        lines += [f"{oid} {ref} {peeled}".strip().encode() + b"\n"] if oid else []
    return b"".join(packet(line) for line in lines) + FLUSH


def _pack_head() -> bytes:
    """A pack of one blob that is said to have 2^40 bytes."""
    size, head = 1 << 40, bytearray()
    byte = (3 << 4) | (size & 15)
    size >>= 4
    while size:
        head.append(byte | 0x80)
        byte, size = size & 0x7F, size >> 7
    head.append(byte)
    return b"PACK" + (2).to_bytes(4, "big") + (1).to_bytes(4, "big") + bytes(head)


def _certificate(folder: Path) -> None:
    """A key and a certificate for 127.0.0.1 and localhost, which is its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "git.example")])
    now = datetime.datetime.now(datetime.UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.IPv4Address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name).issuer_name(name).public_key(key.public_key()).serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1)).not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    (folder / CERTIFICATE).write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / KEY).write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )


async def serve(root: Path) -> None:
    """Serves on a free port of loopback until SIGTERM; prints one JSON line when ready."""
    application = web.Application(client_max_size=64 << 20)
    application.router.add_route("*", "/{repository}/{rest:.*}", Host(root).handle)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(root / CERTIFICATE, root / KEY)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        sys.stdout.write(json.dumps({"event": "ready", "port": runner.addresses[0][1]}) + "\n")
        sys.stdout.flush()
        with anyio.open_signal_receiver(signal.SIGTERM) as signals:
            async for _ in signals:
                break
    finally:
        await runner.cleanup()


class HostileGit:
    """A running host: its repositories are folders below ``root``, ``ca_file`` is whom to believe about it."""

    def __init__(self, root: Path, port: int) -> None:
        self.root, self.port, self.ca_file = root, port, root / CERTIFICATE

    def url(self, repository: str) -> str:
        return f"https://127.0.0.1:{self.port}/{repository}"

    def lies(self, **script: Any) -> None:
        """From the next request on; without arguments it is honest again."""
        new = self.root / f"{SCRIPT}.new"
        new.write_text(json.dumps(script))
        new.replace(self.root / SCRIPT)

    def requests(self) -> list[dict[str, str]]:
        log = self.root / REQUESTS
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


@contextmanager
def hostile_git(root: Path) -> Iterator[HostileGit]:
    """The process, honest until it is told otherwise; killed with the block."""
    root.mkdir(parents=True, exist_ok=True)
    _certificate(root)
    (root / SCRIPT).write_text("{}")
    with (root / "host.log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, __file__, "--root", str(root)], stdout=subprocess.PIPE, stderr=log, text=True
        )
    assert process.stdout is not None
    try:
        line = process.stdout.readline()
        assert line, (root / "host.log").read_text()
        yield HostileGit(root, int(json.loads(line)["port"]))
    finally:
        process.kill()
        process.wait(10)
        process.stdout.close()


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description="Serves Git repositories and lies (tests only).")
    arguments.add_argument("--root", type=Path, required=True)
    anyio.run(serve, arguments.parse_args().root)
