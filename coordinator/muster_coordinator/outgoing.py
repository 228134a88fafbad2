"""Requests that the coordinator makes by itself: the checks of gates, and notifications.

Owns the only use of an HTTP client: http and https only, no redirects, no proxy or credentials of the environment, every
answer bounded in time and size, a bounded number at once. It judges no answer, and what it says about a URL never has the
parts that may hold a secret.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import TracebackType
from typing import NamedTuple
from urllib.parse import urlsplit

import aiohttp
import anyio
from muster_core.addresses import is_http
from muster_core.errors import MusterError

AT_ONCE = 32
MAX_ANSWER = 256 * 1024
# Answers are measured as they come over the wire: nothing that unpacks to more.
HEADERS = {"Accept-Encoding": "identity", "User-Agent": "muster-coordinator"}


class OutgoingError(MusterError):
    """Nobody answered, or what was asked for is no place to ask. ``retryable`` says which."""


class Answer(NamedTuple):
    """``whole`` is false when there was more than ``MAX_ANSWER`` bytes; ``body`` is then its beginning."""

    status: int
    body: bytes
    whole: bool


class Outgoing:
    """Open it with ``async with``; calls may run beside each other."""

    async def __aenter__(self) -> Outgoing:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=AT_ONCE, limit_per_host=AT_ONCE // 4, force_close=True),
            timeout=aiohttp.ClientTimeout(total=None),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            trust_env=False,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def get(self, url: str, seconds: float, query: Mapping[str, str] | None = None) -> Answer:
        """The answer, whatever its status; ``MUSTER-R080`` when nobody answers in time, ``R081`` for no http URL."""
        return await self._ask("GET", url, seconds, query=query)

    async def post(self, url: str, body: bytes, headers: Mapping[str, str], seconds: float) -> Answer:
        """As :meth:`get`."""
        return await self._ask("POST", url, seconds, body=body, headers=headers)

    async def _ask(
        self,
        method: str,
        url: str,
        seconds: float,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        place = shown(url)
        if not is_http(url):
            raise OutgoingError("R081", "this is no http or https URL", object=place, hint="Write https://…")
        try:
            with anyio.fail_after(seconds):
                async with self._session.request(
                    method,
                    url,
                    params=query,
                    data=body,
                    headers={**HEADERS, **(headers or {})},
                    allow_redirects=False,
                ) as response:
                    return await _read(response)
        except TimeoutError as error:
            raise _silent(place, f"no answer within {seconds:g} s") from error
        except aiohttp.InvalidURL as error:
            raise OutgoingError("R081", "this is no http or https URL", object=place) from error
        except (aiohttp.ClientError, asyncio.IncompleteReadError, OSError, ValueError) as error:
            raise _silent(place, _reason(error)) from error


async def _read(response: aiohttp.ClientResponse) -> Answer:
    body = bytearray()
    while len(body) <= MAX_ANSWER:
        piece = await response.content.read(MAX_ANSWER + 1 - len(body))
        if not piece:
            return Answer(response.status, bytes(body), whole=True)
        body += piece
    return Answer(response.status, bytes(body[:MAX_ANSWER]), whole=False)


def shown(url: str) -> str:
    """A URL for people and logs: scheme, host and port. Paths, queries and user names of webhooks are credentials."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        return "(no URL)"
    if not host:
        return "(no URL)"
    host = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{host}" + (f":{port}" if port else "")


def _silent(place: str, why: str) -> OutgoingError:
    return OutgoingError("R080", f"it did not answer ({why})", object=place, retryable=True)


def _reason(error: Exception) -> str:
    """In words, without the URL that some of them carry."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return "its certificate does not hold"
    if isinstance(error, aiohttp.ClientConnectorError):
        return error.os_error.strerror or type(error.os_error).__name__
    return type(error).__name__
