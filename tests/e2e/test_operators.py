"""Who may call a running coordinator: installed programs over real TLS, certificates of its CA, tokens of a real issuer."""

from __future__ import annotations

import datetime as dt
import json
import os
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric import ec
from e2e.programs import Stage, code_in, shop, stage, until
from muster_cli.x509 import new_request
from muster_coordinator.access.roles import METHODS, SERVICE
from muster_coordinator.enrol.x509 import Authority
from muster_core.audit.chain import Entry, decode, verify_lines
from muster_core.rollout import events as ev
from muster_core.sealing.keys import IdentityKey, encode_identity
from muster_core.times import format_time
from muster_proto.v1 import operator_pb2 as op
from muster_proto.v1 import operator_pb2_grpc

LEEWAY = 60
ENTRY = """apiVersion: muster.dev/v1alpha1
kind: Cluster
metadata: {name: edge-1}
spec: {uid: uid-of-edge-1, identityKey: '%s'}
"""


@dataclass
class Answer:
    code: int
    out: str
    err: str


def muster(context: Path, *args: str, home: Path | None = None) -> Answer:
    """The command as a process of its own."""
    environment = {**os.environ, "XDG_CONFIG_HOME": str(home or context.parent), "GRPC_VERBOSITY": "NONE"}
    done = subprocess.run(
        [sys.executable, "-m", "muster_cli.main", "--context", str(context), *args],
        check=False, capture_output=True, text=True, timeout=60, env=environment,
    )  # fmt: skip
    return Answer(done.returncode, done.stdout, done.stderr)


def certificate(fleet: Stage, name: str, role: str) -> Path:
    """A context file with a certificate, made by the command with the admin token."""
    path = fleet.folder / "people" / f"{name}.json"
    made = muster(
        fleet.data / "context.json", "operator", "certificate", name, "--role", role, "--days", "1", "--out", str(path)
    )  # fmt: skip
    assert made.code == 0, made.err
    return path


def written(fleet: Stage) -> list[Entry]:
    """The coordinator's audit log as it is on disk."""
    files = sorted((fleet.data / "audit").glob("audit-*.jsonl"))
    lines = [line for file in files for line in file.read_bytes().splitlines(keepends=True)]
    assert verify_lines(lines).holds
    return [decode(line) for line in lines]


def calls(fleet: Stage, actor: str) -> list[tuple[str, str, str]]:
    """(object, result, code) of every call of one person."""
    return [
        (entry.object, entry.result, entry.detail.get("code", ""))
        for entry in written(fleet)
        if entry.action == "call" and entry.actor == actor
    ]


def offered(fleet: Stage) -> str:
    """A rollout that waits for a cluster which never comes."""
    fleet.register("edge-1", ENTRY % encode_identity(IdentityKey.generate().public))
    fleet.commit(shop("1"))
    until(lambda: fleet.rollout("shop-0001"), why=fleet.logs)
    return "shop-0001"


def test_a_viewer_may_look_and_not_pause_and_an_operator_pauses_under_their_own_name(fleet: Stage) -> None:
    rollout = offered(fleet)
    bob, ada = certificate(fleet, "bob", "viewer"), certificate(fleet, "ada", "operator")
    seen = muster(bob, "get", "rollouts")
    assert (seen.code, rollout in seen.out) == (0, True), seen.err
    denied = muster(bob, "rollout", "pause", rollout)
    assert (denied.code, code_in(denied.err)) == (4, "MUSTER-L062")
    view = fleet.rollout(rollout)
    assert view is not None
    assert view.state == "Running"
    paused = muster(ada, "rollout", "pause", rollout, "--reason", "lunch")
    assert paused.code == 0, paused.err
    (pause,) = [event for event in map(ev.decode, fleet.events(rollout)) if isinstance(event, ev.Paused)]
    assert "ada" in repr(pause)
    until(lambda: any(thing == "ListRollouts" for thing, _, _ in calls(fleet, "bob")), why=fleet.logs)
    assert ("ActOnRollout", "denied", "MUSTER-L062") in calls(fleet, "bob")
    assert (f"ActOnRollout {rollout}", "ok", "") in calls(fleet, "ada")
    (entry,) = [e for e in written(fleet) if e.actor == "ada" and e.detail.get("verb") == "PAUSE"]
    assert (entry.detail["how"], entry.detail["role"], entry.detail["reason"]) == (
        "certificate", "operator", "lunch",
    )  # fmt: skip


@contextmanager
def chat(status: dict[str, int]) -> Iterator[tuple[str, list[str]]]:
    """Where a chat's webhook is, and what it took; it answers ``status["now"]``."""
    took: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if status["now"] == 200:
                took.append(body["text"])
            self.send_response(status["now"])
            self.end_headers()

        def log_message(self, *args: object) -> None:
            """Not on the test's standard error."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/secret", took
    finally:
        server.shutdown()
        server.server_close()


def test_a_freeze_holds_the_next_rollout_past_crashes_and_a_chat_is_told_once(tmp_path: Path) -> None:
    status, settings = {"now": 503}, tmp_path / "notify.yaml"
    with chat(status) as (url, took):
        settings.write_text(f"- {{name: ops, kind: slack, url: {url}, on: [frozen]}}\n")
        with stage(tmp_path, f"--notify={settings}") as fleet:
            frozen_and_free(fleet, status, took)
    assert [text.split("\n")[0] for text in took[1:]] == ["ada ended the freeze sale"]


def frozen_and_free(fleet: Stage, status: dict[str, int], took: list[str]) -> None:
    bob, ada = certificate(fleet, "bob", "viewer"), certificate(fleet, "ada", "operator")
    wanted = (
        "freeze",
        "create",
        "sale",
        "--until",
        "8h",
        "-l",
        "tier notin (lab)",
        "--reason",
        "black friday",
    )
    denied = muster(bob, *wanted)
    assert (denied.code, code_in(denied.err)) == (4, "MUSTER-L062")
    assert "Who may: operator" in denied.err
    made = muster(ada, *wanted, "-o", "json")
    assert made.code == 0, made.err
    end = format_time(int(json.loads(made.out)["untilUnix"]))
    rollout = offered(fleet)
    until(lambda: "a notification was not taken" in fleet.hub.log.read_text(), why=fleet.logs)
    fleet.hub.kill()
    status["now"] = 200
    fleet.start_hub()
    # Only between the answer and this row could a crash tell it again, with the same id.
    until(lambda: any(b'"event":"sent"' in row for row in fleet.events("notify")), why=fleet.logs)
    assert took == [took_of_begin(end)]
    fleet.hub.kill()
    fleet.start_hub()

    def explained() -> str:
        found: op.Explanation = fleet.call("Explain", op.ExplainRequest(rollout=rollout, cluster="edge-1"))
        return found.text

    until(lambda: f"It is held: frozen by sale until {end}: black friday." in explained(), why=explained)
    ended = muster(ada, "freeze", "delete", "sale")
    assert ended.out == "sale has ended; it held 1 cluster.\n"
    assert explained().startswith("edge-1 is offered")
    assert calls(fleet, "bob")[0] == ("CreateFreeze", "denied", "MUSTER-L062")
    (entry,) = [e for e in written(fleet) if e.actor == "ada" and e.object == "CreateFreeze sale"]
    assert (entry.detail["selector"], entry.detail["until"]) == ("tier notin (lab)", end)
    until(lambda: len(took) == 2, why=fleet.logs)
    assert "/secret" not in fleet.hub.log.read_text()


def took_of_begin(end: str) -> str:
    return (
        f"ada froze tier notin (lab) until {end} (sale): black friday\n"
        "muster get freezes; to end it: muster freeze delete sale"
    )


def test_the_private_key_stays_with_the_operator(fleet: Stage) -> None:
    path = certificate(fleet, "ada", "admin")
    key = path.with_name("ada.key")
    assert key.stat().st_mode & 0o777 == 0o600
    secret = key.read_bytes().splitlines()[1]
    held = [file for file in fleet.data.rglob("*") if file.is_file() and secret in file.read_bytes()]
    assert held == []
    assert (fleet.data / "admin-token").read_text() not in "".join(
        e.object + repr(e.detail) for e in written(fleet)
    )


def test_a_revoked_certificate_is_refused_and_its_open_watch_ends(fleet: Stage) -> None:
    path = certificate(fleet, "ada", "operator")
    assert muster(path, "get", "clusters").code == 0
    with channel(fleet, path) as line:
        events = operator_pb2_grpc.OperatorStub(line).Watch(op.WatchRequest(), timeout=40)
        assert next(iter(events)).kind == op.Event.SYNCED
        admin = fleet.data / "context.json"
        assert (
            muster(admin, "operator", "revoke", "ada", "--reason", "left").out == "operator/ada revoked (1)\n"
        )
        with pytest.raises(grpc.RpcError) as caught:
            list(events)
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
    refused = muster(path, "get", "clusters")
    assert (refused.code, code_in(refused.err)) == (4, "MUSTER-L064")
    fleet.hub.kill()
    fleet.start_hub()
    assert code_in(muster(path, "get", "clusters").err) == "MUSTER-L064"
    assert "Revoked" in muster(admin, "operator", "list").out


def channel(fleet: Stage, context: Path) -> grpc.Channel:
    """The line that a context file describes, to the listener with client certificates."""
    credentials = grpc.ssl_channel_credentials(
        (fleet.data / "ca.crt").read_bytes(),
        context.with_suffix(".key").read_bytes(),
        context.with_suffix(".crt").read_bytes(),
    )
    return grpc.secure_channel(fleet.link, credentials)


def signed_elsewhere(fleet: Stage, made: dt.datetime) -> Path:
    """A certificate with the role admin that the CA signed and that is in nobody's books."""
    key, request = new_request("eve")
    authority = Authority.load_or_make(fleet.data, made)
    issued = authority.operator(request, "eve", "admin", dt.timedelta(days=1), made)
    path = fleet.folder / "people" / "eve.json"
    path.parent.mkdir(exist_ok=True)
    path.with_suffix(".key").write_bytes(key)
    path.with_suffix(".crt").write_bytes(issued.certificate)
    values = {
        "ca_pem_file": str(fleet.data / "ca.crt"), "link": fleet.link, "certificate_file": "eve.crt", "key_file": "eve.key",
    }  # fmt: skip
    path.write_text(json.dumps(values))
    return path


def test_an_expired_certificate_does_not_even_get_a_line(fleet: Stage) -> None:
    past = dt.datetime.now(dt.UTC) - dt.timedelta(days=2)
    refused = muster(signed_elsewhere(fleet, past), "--timeout", "5s", "get", "clusters")
    assert (refused.code, code_in(refused.err)) == (5, "MUSTER-L012")


def test_a_certificate_that_is_not_in_the_books_is_nobodys_although_the_ca_signed_it(fleet: Stage) -> None:
    refused = muster(signed_elsewhere(fleet, dt.datetime.now(dt.UTC)), "get", "clusters")
    assert (refused.code, code_in(refused.err)) == (4, "MUSTER-L064")


def test_a_clusters_certificate_opens_no_operator_call(fleet: Stage) -> None:
    authority = Authority.load_or_make(fleet.data, dt.datetime.now(dt.UTC))
    key, request = new_request("edge-1")
    pem = authority.client(request, "edge-1", "uid-of-edge-1", b"i" * 32, dt.datetime.now(dt.UTC))
    credentials = grpc.ssl_channel_credentials(authority.pem, key, pem)
    with grpc.secure_channel(fleet.link, credentials) as line, pytest.raises(grpc.RpcError) as caught:
        operator_pb2_grpc.OperatorStub(line).GetInfo(op.GetInfoRequest(), timeout=10)
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


def raw(line: grpc.Channel, method: str, token: str) -> grpc.StatusCode:
    """How a call with an empty message ends."""
    call = line.unary_unary(SERVICE + method)
    try:
        call(b"", metadata=[("authorization", token)] if token else None, timeout=10)
    except grpc.RpcError as error:
        found: grpc.StatusCode = error.code()
        return found
    return grpc.StatusCode.OK


def test_an_unknown_method_is_denied_to_an_administrator_and_nobody_learns_of_it(fleet: Stage) -> None:
    token = "Bearer " + (fleet.data / "admin-token").read_text()
    with grpc.secure_channel(
        fleet.edge, grpc.ssl_channel_credentials((fleet.data / "ca.crt").read_bytes())
    ) as line:
        assert raw(line, "Format", token) is grpc.StatusCode.PERMISSION_DENIED
        for method in [*METHODS, "Format"]:
            assert raw(line, method, "") is grpc.StatusCode.UNAUTHENTICATED, method
            assert raw(line, method, token + "x") is grpc.StatusCode.UNAUTHENTICATED, method
    until(lambda: ("Format", "denied", "MUSTER-L062") in calls(fleet, "admin"), why=fleet.logs)
    assert {actor for entry in written(fleet) if (actor := entry.actor) and entry.action == "call"} == {
        "admin"
    }


# --- tokens of an issuer -----------------------------------------------------------------------------------------------


class Issuer:
    """A server with a discovery document and one key, over HTTPS."""

    def __init__(self, authority: trustme.CA) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.url = ""
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = json.dumps(issuer.answer(self.path)).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(context)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.url = f"https://localhost:{self.server.server_port}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def answer(self, path: str) -> dict[str, object]:
        if path.endswith("openid-configuration"):
            return {"issuer": self.url, "jwks_uri": f"{self.url}/keys"}
        public = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(self.key.public_key()))
        return {"keys": [{**public, "kid": "one", "use": "sig", "alg": "ES256"}]}

    def token(self, group: str, lives: float) -> str:
        """For ada; it counts for about ``lives`` seconds, the leeway for clocks included."""
        now = int(time.time())
        claims = {"iss": self.url, "aud": "muster", "sub": "ada", "iat": now - 120, "groups": [group]}
        return jwt.encode(
            claims | {"exp": now + lives - LEEWAY}, self.key, algorithm="ES256", headers={"kid": "one"}
        )

    def stop(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture
def issuer(tmp_path: Path) -> Iterator[Issuer]:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "issuer.crt")
    found = Issuer(authority)
    yield found
    found.stop()


@pytest.fixture
def federated(tmp_path: Path, issuer: Issuer) -> Iterator[Stage]:
    flags = [
        f"--oidc-issuer={issuer.url}", "--oidc-audience=muster", f"--oidc-ca-file={tmp_path / 'issuer.crt'}",
        "--oidc-role=fleet-viewers=viewer", "--oidc-role=fleet-operators=operator",
    ]  # fmt: skip
    with stage(tmp_path, *flags) as found:
        yield found


def with_token(fleet: Stage, token: str) -> Path:
    path = fleet.folder / "people" / "ada.json"
    path.parent.mkdir(exist_ok=True)
    path.with_suffix(".token").write_text(token)
    values = {"edge": fleet.edge, "ca_pem_file": str(fleet.data / "ca.crt"), "token_file": "ada.token"}
    path.write_text(json.dumps(values))
    return path


def test_a_token_of_the_issuer_has_the_role_of_its_group_and_lapses(federated: Stage, issuer: Issuer) -> None:
    rollout = offered(federated)
    viewer = with_token(federated, issuer.token("fleet-viewers", 300))
    assert muster(viewer, "get", "rollouts").code == 0
    assert muster(viewer, "rollout", "pause", rollout).code == 4
    operator = with_token(federated, issuer.token("fleet-operators", 300))
    assert muster(operator, "rollout", "pause", rollout).code == 0
    assert (f"ActOnRollout {rollout}", "ok", "") in calls(federated, "ada")
    stranger = muster(with_token(federated, issuer.token("kitchen", 300)), "get", "clusters")
    assert (stranger.code, code_in(stranger.err)) == (4, "MUSTER-L061")
    lapsed = muster(with_token(federated, issuer.token("fleet-operators", -1)), "get", "clusters")
    assert (lapsed.code, code_in(lapsed.err)) == (4, "MUSTER-L060")


def test_a_watch_ends_when_its_token_lapses(federated: Stage, issuer: Issuer) -> None:
    metadata = [("authorization", f"Bearer {issuer.token('fleet-viewers', 6)}")]
    ca = grpc.ssl_channel_credentials((federated.data / "ca.crt").read_bytes())
    with grpc.secure_channel(federated.edge, ca) as line:
        events = operator_pb2_grpc.OperatorStub(line).Watch(op.WatchRequest(), metadata=metadata, timeout=40)
        assert next(iter(events)).kind == op.Event.SYNCED
        with pytest.raises(grpc.RpcError) as caught:
            list(events)
    assert (caught.value.code(), code_in(caught.value.details() or "")) == (
        grpc.StatusCode.UNAUTHENTICATED,
        "MUSTER-L060",
    )


def test_an_issuer_without_an_audience_is_a_usage_error(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable, "-c", "from muster_coordinator.command import serve; serve()", f"--data-dir={tmp_path / 'hub'}",
            "--repository=file:///nowhere", "--oidc-issuer=https://issuer.example",
        ],
        check=False, capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert (done.returncode, "--oidc-audience" in done.stderr) == (2, True)
