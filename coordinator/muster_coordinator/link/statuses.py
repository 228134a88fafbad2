"""Errors as gRPC statuses: one table for every service.

Owns the translation; the text of the error goes along, so that codes and hints reach whoever called.
"""

from __future__ import annotations

from typing import Any, NoReturn

import grpc
import grpc.aio
from muster_core.errors import JoinError, MusterError, RolloutError

from muster_coordinator.access.errors import DeniedError, UnauthenticatedError
from muster_coordinator.api.answers import NotFoundError

MAX_WIRE = 6000  # bytes; from 8 KiB on it may be refused
DENIED = frozenset({"R046", "L083"})  # who asks may not, or has to sign what they ask


async def fail(context: grpc.aio.ServicerContext[Any, Any], error: MusterError) -> NoReturn:
    status = grpc.StatusCode.INVALID_ARGUMENT
    if isinstance(error, NotFoundError):
        status = grpc.StatusCode.NOT_FOUND
    elif isinstance(error, UnauthenticatedError):
        status = grpc.StatusCode.UNAUTHENTICATED
    elif isinstance(error, (JoinError, DeniedError)) or error.code in DENIED:
        status = grpc.StatusCode.PERMISSION_DENIED
    elif isinstance(error, RolloutError):
        status = grpc.StatusCode.FAILED_PRECONDITION
    elif error.retryable:
        status = grpc.StatusCode.ABORTED
    await context.abort(status, carried(str(error)))


def carried(text: str) -> str:
    """A text as long as it was, or without its middle: gRPC sends it percent-encoded in a header, and drops a larger one."""
    cost = sum(1 if " " <= c <= "~" and c != "%" else 3 * len(c.encode(errors="replace")) for c in text)
    if cost <= MAX_WIRE:
        return text
    room = MAX_WIRE // 12  # of any characters
    return f"{text[: room * 2 // 3]} … {text[-room // 3 :]}"
