"""The public keys of a token issuer: fetched over HTTPS, kept, and refreshed when that is due.

Owns the discovery document, the JWKS and their cache. An issuer that is down changes nothing for a day; after that its
keys may have been withdrawn without anybody here knowing, and count no more. It never decides about a token.
"""

from __future__ import annotations

import http.client
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
import jwt
import msgspec
import structlog
from muster_core.errors import ValidationError

from muster_coordinator.access.errors import UnauthenticatedError

log = structlog.get_logger()

ALGORITHMS = ("RS256", "ES256", "EdDSA")
TIMEOUT_SECONDS = 5.0
MAX_BYTES = 256 << 10
MAX_KEYS = 64
MIN_RSA_BITS = 2048
RETRY_SECONDS = 60.0
FRESH_SECONDS = 3600.0
STALE_SECONDS = 24 * 3600.0

Fetch = Callable[[str], Awaitable[bytes]]


class IssuerError(Exception):
    """The issuer could not be asked, or answered what cannot be used."""


class _Discovery(msgspec.Struct, frozen=True):
    issuer: str
    jwks_uri: str


class _KeySet(msgspec.Struct, frozen=True):
    keys: list[dict[str, object]]


def https_fetch(ca_file: Path | None) -> Fetch:
    """GET over HTTPS: no redirect, no proxy, at most 256 KiB, 5 seconds in all. Raises :class:`IssuerError`."""
    context = ssl.create_default_context(cafile=str(ca_file) if ca_file else None)

    def get(url: str) -> bytes:
        parts = urlsplit(url)
        deadline = time.monotonic() + TIMEOUT_SECONDS
        connection = http.client.HTTPSConnection(
            parts.hostname or "", parts.port, timeout=TIMEOUT_SECONDS, context=context
        )
        try:
            target = parts._replace(scheme="", netloc="", fragment="").geturl() or "/"
            connection.request("GET", target, headers={"Accept": "application/json"})
            response = connection.getresponse()
            if response.status != http.HTTPStatus.OK:
                raise IssuerError(f"{url} answered {response.status}")
            body = b""
            while chunk := response.read1(64 << 10):
                body += chunk
                if len(body) > MAX_BYTES or time.monotonic() > deadline:
                    raise IssuerError(f"{url} answered too much, or too slowly")
        except (OSError, http.client.HTTPException) as error:
            raise IssuerError(f"{url} cannot be read: {error}") from error
        finally:
            connection.close()
        return body

    async def fetch(url: str) -> bytes:
        with anyio.move_on_after(TIMEOUT_SECONDS * 1.5):
            return await anyio.to_thread.run_sync(get, url, abandon_on_cancel=True)
        raise IssuerError(f"{url} did not answer in time")

    return fetch


class IssuerKeys:
    """Keys by their id. ``clock`` gives seconds and never goes back (``time.monotonic``)."""

    def __init__(self, issuer: str, fetch: Fetch, clock: Callable[[], float]) -> None:
        require_https(issuer)
        self._issuer, self._fetch, self._clock = issuer, fetch, clock
        self._keys: Mapping[str, jwt.PyJWK] = {}
        self._fetched: float | None = None
        self._tried: float | None = None
        self._lock = anyio.Lock()

    async def get(self, kid: str) -> jwt.PyJWK:
        """The key with this id, asking the issuer at most once a minute. ``MUSTER-L060`` or ``MUSTER-L063``."""
        if not self._is_known(kid) or self._age() > FRESH_SECONDS:
            await self._refresh(kid)
        if self._age() > STALE_SECONDS:
            raise UnauthenticatedError(
                "L063",
                "the token issuer cannot be reached, so its tokens cannot be judged",
                object=self._issuer,
                hint="Use the admin token or a client certificate meanwhile.",
                retryable=True,
            )
        if not self._is_known(kid):
            raise UnauthenticatedError("L060", "the token is signed with a key that its issuer does not have")
        return self._keys[kid]

    def _is_known(self, kid: str) -> bool:
        return kid in self._keys

    def _age(self) -> float:
        return float("inf") if self._fetched is None else self._clock() - self._fetched

    def _may_ask(self) -> bool:
        return self._tried is None or self._clock() - self._tried >= RETRY_SECONDS

    async def _refresh(self, kid: str) -> None:
        """One caller asks; others wait only if they have nothing to go on with."""
        if not self._may_ask() and not self._lock.locked():
            return
        if self._lock.locked() and self._is_known(kid) and self._age() <= STALE_SECONDS:
            return
        async with self._lock:
            if not self._may_ask():
                return
            self._tried = self._clock()
            try:
                self._keys = await self._ask()
            except IssuerError as error:
                log.warning("the token issuer cannot be asked", issuer=self._issuer, error=str(error))
                return
            self._fetched = self._clock()

    async def _ask(self) -> Mapping[str, jwt.PyJWK]:
        place = self._issuer.rstrip("/") + "/.well-known/openid-configuration"
        try:
            discovery = msgspec.json.decode(await self._fetch(place), type=_Discovery)
            if discovery.issuer != self._issuer:
                raise IssuerError(f"it calls itself {discovery.issuer[:200]!r}")
            require_https(discovery.jwks_uri)
            key_set = msgspec.json.decode(await self._fetch(discovery.jwks_uri), type=_KeySet)
        except (msgspec.MsgspecError, UnicodeDecodeError, ValidationError) as error:
            raise IssuerError(f"its answer cannot be used: {error}") from error
        keys = {}
        for data in key_set.keys[:MAX_KEYS]:
            if key := usable(data):
                keys[key.key_id or ""] = key
        if not keys:
            raise IssuerError("it has no key that can be used here")
        return keys


def require_https(url: str) -> None:
    """``MUSTER-V064`` for anything but a plain https URL."""
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname or parts.query or parts.fragment or parts.username:
        raise ValidationError("V064", "a token issuer must be an https URL", object=url[:200])


def usable(data: dict[str, object]) -> jwt.PyJWK | None:
    """A signing key of an asymmetric kind that is strong enough, or None: issuers publish other keys too."""
    if data.get("kty") not in ("RSA", "EC", "OKP") or data.get("use", "sig") != "sig" or "d" in data:
        return None
    if not isinstance(data.get("kid"), str) or data.get("alg", "RS256") not in (*ALGORITHMS, "Ed25519"):
        return None
    try:
        key = jwt.PyJWK.from_dict({**data, "alg": "EdDSA"} if data.get("alg") == "Ed25519" else data)
    except (jwt.PyJWTError, ValueError, TypeError):
        return None
    if key.algorithm_name not in ALGORITHMS:
        return None
    if key.key_type == "RSA" and key.key.key_size < MIN_RSA_BITS:
        return None
    return key
