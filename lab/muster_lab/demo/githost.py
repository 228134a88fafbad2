"""A Git host: one bare repository behind ``git http-backend`` over HTTPS, as a small forge would serve it.

Owns the HTTPS server (a program of its own: ``python -m muster_lab.demo.githost``) and the CGI contract with git.
It never authenticates: it listens on loopback for as long as the demo runs.
Protocol: git-http-backend(1) and RFC 3875.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import ssl
import subprocess
import sys
from pathlib import Path

import anyio
from aiohttp import web

MAX_BODY = 64 << 20
BACKEND_DEADLINE = 60.0


class GitHost:
    """Serves every repository below ``root``."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._git = shutil.which("git") or "git"

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        environment = {
            "PATH": os.environ.get("PATH", ""),
            "GIT_PROJECT_ROOT": str(self._root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GIT_CONFIG_NOSYSTEM": "1",
            "HOME": str(self._root),
            "PATH_INFO": request.path,
            "QUERY_STRING": request.query_string,
            "REQUEST_METHOD": request.method,
            "CONTENT_TYPE": request.headers.get("Content-Type", ""),
            "CONTENT_LENGTH": str(len(body)),
            "HTTP_CONTENT_ENCODING": request.headers.get("Content-Encoding", ""),
            "GIT_PROTOCOL": request.headers.get("Git-Protocol", ""),
            "REMOTE_ADDR": request.remote or "",
            "REMOTE_USER": "operator",
        }
        with anyio.move_on_after(BACKEND_DEADLINE):
            done = await anyio.run_process(
                [self._git, "http-backend"], input=body, env=environment, check=False, stderr=subprocess.PIPE
            )
            return _response(done.stdout)
        raise web.HTTPGatewayTimeout(text="git http-backend did not answer in time")


def _response(output: bytes) -> web.Response:
    """A CGI answer as an HTTP one."""
    head, _, body = output.partition(b"\r\n\r\n")
    status, headers = 200, {}
    for line in head.decode("latin-1").split("\r\n"):
        name, _, value = line.partition(":")
        if name.lower() == "status":
            status = int(value.split()[0])
        elif name:
            headers[name] = value.strip()
    return web.Response(status=status, headers=headers, body=body)


async def serve(root: Path, certificate: Path, key: Path) -> None:
    """Serves on a free port of loopback until cancelled; prints one JSON line when ready."""
    host = GitHost(root)
    application = web.Application(client_max_size=MAX_BODY)
    application.router.add_route("*", "/{path:.*}", host.handle)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        port = runner.addresses[0][1]
        sys.stdout.write(json.dumps({"event": "ready", "port": port}) + "\n")
        sys.stdout.flush()
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for _ in signals:
                break
    finally:
        await runner.cleanup()


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Serves bare Git repositories over HTTPS on loopback (lab only)."
    )
    parser.add_argument("--root", type=Path, required=True, help="folder that holds the bare repositories")
    parser.add_argument("--certificate", type=Path, required=True)
    parser.add_argument("--key", type=Path, required=True)
    arguments = parser.parse_args()
    anyio.run(serve, arguments.root, arguments.certificate, arguments.key)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
