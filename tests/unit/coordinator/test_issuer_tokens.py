"""Operators with tokens of a real issuer that serves its keys over HTTPS."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import ssl
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import jwt
import pytest
import trustme
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from muster_coordinator.access.errors import DeniedError, UnauthenticatedError
from muster_coordinator.access.issuer import (
    MAX_BYTES,
    IssuerError,
    IssuerKeys,
    https_fetch,
    require_https,
    usable,
)
from muster_coordinator.access.oidc import OidcSettings, TokenVerifier
from muster_coordinator.access.principal import Access, Principal
from muster_coordinator.access.roles import Role
from muster_core.errors import MusterError, ValidationError
from unit.coordinator.test_access import ADMIN, GET, START, admitting, bearer

AUDIENCE = "muster"
ROLES = {"fleet-viewers": Role.VIEWER, "fleet-operators": Role.OPERATOR, "fleet-approvers": Role.APPROVER}
DAY = 24 * 3600.0

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
_ALGORITHM: dict[type, tuple[str, Any]] = {
    rsa.RSAPrivateKey: ("RS256", jwt.algorithms.RSAAlgorithm),
    ec.EllipticCurvePrivateKey: ("ES256", jwt.algorithms.ECAlgorithm),
    ed25519.Ed25519PrivateKey: ("EdDSA", jwt.algorithms.OKPAlgorithm),
}


def algorithm_of(key: PrivateKey) -> tuple[str, Any]:
    return next(value for kind, value in _ALGORITHM.items() if isinstance(key, kind))


def make_rsa() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


class Issuer:
    """A server with a discovery document and a JWKS; ``keys`` are its private keys by id."""

    def __init__(self) -> None:
        self.keys: dict[str, PrivateKey] = {}
        self.more: list[dict[str, object]] = []
        self.asked: list[str] = []
        self.answers: dict[str, tuple[int, bytes]] = {}
        self.url = ""

    async def start(self, certificate: trustme.LeafCert) -> None:
        async def get(request: web.Request) -> web.Response:
            self.asked.append(request.path)
            status, body = self.answer(request.path)
            return web.Response(status=status, body=body, headers={"Location": "/elsewhere"})

        application = web.Application()
        application.router.add_get("/{path:.*}", get)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(context)
        self._runner = web.AppRunner(application)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=context).start()
        self.url = f"https://localhost:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        await self._runner.cleanup()

    def answer(self, path: str) -> tuple[int, bytes]:
        if path in self.answers:
            return self.answers[path]
        if path == "/.well-known/openid-configuration":
            return 200, json.dumps({"issuer": self.url, "jwks_uri": self.url + "/keys", "extra": 1}).encode()
        if path == "/keys":
            return 200, json.dumps({"keys": [*self.more, *map(self.jwk, self.keys)]}).encode()
        return 404, b""

    def jwk(self, kid: str) -> dict[str, object]:
        name, algorithm = algorithm_of(self.keys[kid])
        return {
            **json.loads(algorithm.to_jwk(self.keys[kid].public_key())),
            "kid": kid,
            "use": "sig",
            "alg": name,
        }

    def claims(self, **changed: object) -> dict[str, object]:
        now = int(time.time())
        claims: dict[str, object] = {
            "iss": self.url,
            "aud": AUDIENCE,
            "sub": "ada",
            "iat": now,
            "exp": now + 300,
            "groups": ["fleet-operators"],
        }
        claims |= changed
        return {key: value for key, value in claims.items() if value is not None}

    def token(self, kid: str = "one", headers: dict[str, object] | None = None, **changed: object) -> str:
        key = self.keys[kid]
        given = {name: value for name, value in {"kid": kid, **(headers or {})}.items() if value is not None}
        return jwt.encode(
            self.claims(**changed),
            key,
            algorithm=algorithm_of(key)[0],
            headers=given,
        )


class Clock:
    """Monotonic seconds, moved by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Stage:
    """An issuer, and an :class:`Access` that trusts it."""

    def __init__(self, issuer: Issuer, ca_file: Path) -> None:
        self.issuer, self.clock, self.ca_file = issuer, Clock(), ca_file
        self.access = self.trusting()

    def trusting(self, **settings: Any) -> Access:
        keys = IssuerKeys(self.issuer.url, https_fetch(self.ca_file), self.clock)
        values: dict[str, Any] = {"issuer": self.issuer.url, "audience": AUDIENCE, "roles": ROLES} | settings
        return admitting(TokenVerifier(OidcSettings(**values), keys))

    async def enter(self, token: str, method: str = GET) -> Principal:
        return await self.access.authorize(method, bearer(token))

    async def refused(self, token: str, code: str = "L060") -> MusterError:
        with pytest.raises(UnauthenticatedError) as caught:
            await self.enter(token)
        assert caught.value.code == code
        assert token not in str(caught.value)
        return caught.value


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def first_key() -> rsa.RSAPrivateKey:
    return make_rsa()


@pytest.fixture
async def stage(authority: trustme.CA, first_key: rsa.RSAPrivateKey, tmp_path: Path) -> AsyncIterator[Stage]:
    ca_file = tmp_path / "ca.crt"
    authority.cert_pem.write_to_path(ca_file)
    issuer = Issuer()
    issuer.keys["one"] = first_key
    await issuer.start(authority.issue_cert("localhost"))
    try:
        yield Stage(issuer, ca_file)
    finally:
        await issuer.stop()


# --- tokens of an issuer -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make", [make_rsa, lambda: ec.generate_private_key(ec.SECP256R1()), ed25519.Ed25519PrivateKey.generate]
)
async def test_a_token_with_a_mapped_group_is_let_in_with_its_role(stage: Stage, make: Any) -> None:
    stage.issuer.keys["new"] = make()
    assert await stage.enter(stage.issuer.token("new"), START) == Principal("ada", Role.OPERATOR, "oidc")


async def test_of_two_groups_the_highest_role_counts(stage: Stage) -> None:
    groups = ["fleet-viewers", "others", "fleet-approvers", 7]
    assert (await stage.enter(stage.issuer.token(groups=groups))).role is Role.APPROVER


@pytest.mark.parametrize(
    "groups", [None, [], ["others"], "others", ["admin"], ["FLEET-OPERATORS"], [["fleet-operators"]]]
)
async def test_a_valid_token_without_a_mapped_group_is_denied(stage: Stage, groups: object) -> None:
    with pytest.raises(DeniedError) as caught:
        await stage.enter(stage.issuer.token(groups=groups))
    assert caught.value.code == "L061"


async def test_a_role_that_does_not_suffice_is_denied(stage: Stage) -> None:
    with pytest.raises(DeniedError):
        await stage.enter(stage.issuer.token(groups=["fleet-viewers"]), START)


@pytest.mark.parametrize(
    "changed",
    [
        {"exp": 1},
        {"exp": None},
        {"iat": None},
        {"sub": None},
        {"iss": None},
        {"aud": None},
        {"aud": "another"},
        {"aud": []},
        {"iss": "https://evil.example.com"},
        {"sub": ""},
        {"sub": "ada\nadmin"},
        {"sub": "a" * 300},
        {"groups": {"fleet-approvers": 1}},
    ],
)
async def test_a_token_with_a_claim_that_does_not_hold_is_refused(
    stage: Stage, changed: dict[str, object]
) -> None:
    await stage.refused(stage.issuer.token(**changed))


@pytest.mark.parametrize(("claim", "sign"), [("exp", -1), ("nbf", 1), ("iat", 1)])
async def test_clocks_may_differ_by_a_minute_and_no_more(stage: Stage, claim: str, sign: int) -> None:
    now = int(time.time())
    assert await stage.enter(stage.issuer.token(**{claim: now + sign * 30}))
    await stage.refused(stage.issuer.token(**{claim: now + sign * 90}))


def unsigned(issuer: Issuer, header: dict[str, object], sign: Any = lambda data: b"") -> str:
    parts = [
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=")
        for part in ({"kid": "one", "typ": "JWT", **header}, issuer.claims())
    ]
    data = b".".join(parts)
    return (data + b"." + base64.urlsafe_b64encode(sign(data)).rstrip(b"=")).decode()


@pytest.mark.parametrize("algorithm", ["none", "None", "", "RS256"])
async def test_an_unsigned_token_is_refused(stage: Stage, algorithm: str) -> None:
    await stage.refused(unsigned(stage.issuer, {"alg": algorithm}))


async def test_the_public_key_is_no_secret_to_sign_with(stage: Stage) -> None:
    for encoding, form in (
        (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
        (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo),
    ):
        secret = stage.issuer.keys["one"].public_key().public_bytes(encoding, form)
        token = unsigned(
            stage.issuer, {"alg": "HS256"}, lambda data, s=secret: hmac.digest(s, data, hashlib.sha256)
        )
        await stage.refused(token)


async def test_a_key_counts_only_for_its_own_algorithm(stage: Stage) -> None:
    stage.issuer.keys["curve"] = ec.generate_private_key(ec.SECP256R1())
    token = jwt.encode(
        stage.issuer.claims(), stage.issuer.keys["curve"], algorithm="ES256", headers={"kid": "one"}
    )
    await stage.refused(token)


async def test_a_key_in_the_token_itself_does_not_count(stage: Stage) -> None:
    stage.issuer.keys["mine"] = make_rsa()
    headers = {"jwk": stage.issuer.jwk("mine"), "jku": stage.issuer.url + "/mine", "kid": "one"}
    token = stage.issuer.token("mine", headers)
    del stage.issuer.keys["mine"]
    await stage.refused(token)
    assert "/mine" not in stage.issuer.asked


@pytest.mark.parametrize("headers", [{"kid": None}, {"typ": "logout+jwt"}, {"crit": ["exp"], "exp": 1}])
async def test_a_header_that_is_not_of_a_sign_in_token_is_refused(
    stage: Stage, headers: dict[str, object]
) -> None:
    await stage.refused(stage.issuer.token("one", headers))


@pytest.mark.parametrize("token", ["a.b.c", "..", "e30.e30.e30", "a" * 20_000, "[].[].[]", "bnVsbA.e30."])
async def test_what_is_no_token_is_refused_without_asking_the_issuer(stage: Stage, token: str) -> None:
    await stage.refused(token)
    assert stage.issuer.asked == []


async def test_a_changed_token_is_refused(stage: Stage) -> None:
    head, _, signature = stage.issuer.token().split(".")
    other = stage.issuer.token(groups=["fleet-approvers"]).split(".")[1]
    await stage.refused(f"{head}.{other}.{signature}")


async def test_required_claims_name_claim_and_groups_claim_are_the_operators_to_set(stage: Stage) -> None:
    stage.access = stage.trusting(required={"tid": "acme"}, name_claim="email", groups_claim="roles")
    right = {"tid": "acme", "email": "ada@example.com", "roles": ["fleet-viewers"]}
    assert await stage.enter(stage.issuer.token(**right)) == Principal("ada@example.com", Role.VIEWER, "oidc")
    await stage.refused(stage.issuer.token(**right | {"tid": "other"}))
    await stage.refused(stage.issuer.token(**right | {"tid": None}))
    await stage.refused(stage.issuer.token(**right | {"email": None}))


async def test_without_an_issuer_its_tokens_are_nothing(stage: Stage) -> None:
    stage.access = admitting()
    await stage.refused(stage.issuer.token(), "L001")


# --- the issuer's keys -------------------------------------------------------------------------------------------------


async def test_keys_are_fetched_once_and_kept(stage: Stage) -> None:
    for _ in range(5):
        await stage.enter(stage.issuer.token())
    assert stage.issuer.asked == ["/.well-known/openid-configuration", "/keys"]


async def test_a_new_key_is_found_and_the_old_one_is_forgotten(stage: Stage) -> None:
    old = stage.issuer.token()
    await stage.enter(old)
    stage.issuer.keys = {"two": make_rsa()}
    stage.clock.now += 61
    assert await stage.enter(stage.issuer.token("two"))
    await stage.refused(old)


async def test_unknown_keys_make_the_issuer_be_asked_once_a_minute_at_most(stage: Stage) -> None:
    await stage.enter(stage.issuer.token())
    stage.issuer.keys["two"] = make_rsa()
    token = stage.issuer.token("two")
    for _ in range(5):
        await stage.refused(token)
    assert stage.issuer.asked.count("/keys") == 1
    stage.clock.now += 61
    assert await stage.enter(token)
    assert stage.issuer.asked.count("/keys") == 2


async def test_calls_at_the_same_time_share_one_question(stage: Stage) -> None:
    token = stage.issuer.token()
    async with anyio.create_task_group() as group:
        for _ in range(10):
            group.start_soon(stage.enter, token)
    assert stage.issuer.asked.count("/keys") == 1


async def test_an_issuer_that_is_down_changes_nothing_for_a_day(stage: Stage) -> None:
    token = stage.issuer.token()
    await stage.enter(token)
    stage.issuer.answers["/.well-known/openid-configuration"] = (503, b"")
    for hours in range(1, 24):
        stage.clock.now = 1000.0 + hours * 3600
        assert await stage.enter(token)
    stage.clock.now = 1000.0 + DAY + 1
    error = await stage.refused(token, "L063")
    assert error.retryable
    assert await stage.enter(ADMIN)
    stage.issuer.answers.clear()
    stage.clock.now += 61
    assert await stage.enter(token)


async def test_an_issuer_that_was_never_reached_lets_nobody_in(stage: Stage) -> None:
    await stage.issuer.stop()
    await stage.refused(stage.issuer.token(), "L063")


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (
            "/.well-known/openid-configuration",
            b'{"issuer": "https://evil.example.com", "jwks_uri": "%s/keys"}',
        ),
        ("/.well-known/openid-configuration", b'{"issuer": "%s", "jwks_uri": "http%p/keys"}'),
        ("/.well-known/openid-configuration", b'{"issuer": "%s"}'),
        ("/keys", b'{"keys": []}'),
        ("/keys", b"[]"),
        ("/keys", b"\xff"),
    ],
)
async def test_an_answer_that_cannot_be_used_lets_nobody_in(stage: Stage, path: str, body: bytes) -> None:
    url = stage.issuer.url.encode()
    stage.issuer.answers[path] = (200, body.replace(b"%s", url).replace(b"%p", url.removeprefix(b"https")))
    await stage.refused(stage.issuer.token(), "L063")


async def test_an_answer_without_end_is_not_read_to_its_end(stage: Stage) -> None:
    status, body = stage.issuer.answer("/keys")
    stage.issuer.answers["/keys"] = (status, body + b" " * MAX_BYTES)
    await stage.refused(stage.issuer.token(), "L063")
    stage.issuer.answers["/keys"] = (status, body + b" " * (MAX_BYTES - len(body)))
    stage.clock.now += 61
    assert await stage.enter(stage.issuer.token())


async def test_a_redirect_is_not_followed(stage: Stage) -> None:
    stage.issuer.answers["/keys"] = (302, b"")
    await stage.refused(stage.issuer.token(), "L063")
    assert "/elsewhere" not in stage.issuer.asked


async def test_an_issuer_whose_certificate_is_not_trusted_is_not_asked(stage: Stage) -> None:
    with pytest.raises(IssuerError, match="cannot be read"):
        await https_fetch(None)(stage.issuer.url + "/keys")
    assert stage.issuer.asked == []


async def test_a_key_that_cannot_be_used_does_not_spoil_the_others(stage: Stage) -> None:
    secret = base64.urlsafe_b64encode(b"0" * 32).decode()
    stage.issuer.more = [{"kty": "oct", "k": secret, "kid": "one"}, {"kty": "RSA", "kid": "x"}, {}]
    assert await stage.enter(stage.issuer.token())


async def test_weak_and_foreign_keys_are_not_usable(stage: Stage) -> None:
    good = stage.issuer.jwk("one")
    assert usable(good)
    weak = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(rsa.generate_private_key(65537, 1024).public_key()))  # noqa: S505
    private = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(stage.issuer.keys["one"]))
    for bad in (
        {**weak, "kid": "weak"},
        {**private, "kid": "private"},
        {**good, "use": "enc"},
        {**good, "kid": None},
        {**good, "alg": "PS256"},
        {**good, "alg": "HS256"},
        {**good, "n": "!"},
    ):
        assert usable(bad) is None


@pytest.mark.parametrize(
    "url", ["http://a.example", "https://", "https://u@a.example", "https://a.example?x=1", "a.example"]
)
def test_an_issuer_is_an_https_url(url: str) -> None:
    with pytest.raises(ValidationError):
        require_https(url)
