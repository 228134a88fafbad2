"""The API's errors: one exception that carries a ``Status`` object.

Owns the wording and the codes that clients read. It never decides when an error is due.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .catalog import Resource


class StatusError(Exception):
    """An API call that ends with a ``Status`` of ``Failure``."""

    def __init__(
        self,
        code: int,
        reason: str,
        message: str,
        *,
        details: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details
        self.headers = headers or {}

    def status(self) -> dict[str, Any]:
        body: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
        }
        if self.reason:
            body["reason"] = self.reason
        if self.details:
            body["details"] = self.details
        body["code"] = self.code
        return body


def _details(resource: Resource, name: str, **more: Any) -> dict[str, Any]:
    details: dict[str, Any] = {}
    if name:
        details["name"] = name
    if resource.group:
        details["group"] = resource.group
    details["kind"] = more.pop("kind", resource.plural)
    details.update(more)
    return details


def not_found(resource: Resource, name: str) -> StatusError:
    message = f'{resource.qualified} "{name}" not found'
    return StatusError(404, "NotFound", message, details=_details(resource, name))


def no_route() -> StatusError:
    return StatusError(404, "NotFound", "the server could not find the requested resource", details={})


def already_exists(resource: Resource, name: str) -> StatusError:
    message = f'{resource.qualified} "{name}" already exists'
    return StatusError(409, "AlreadyExists", message, details=_details(resource, name))


def conflict(resource: Resource, name: str, why: str) -> StatusError:
    message = f'Operation cannot be fulfilled on {resource.qualified} "{name}": {why}'
    return StatusError(409, "Conflict", message, details=_details(resource, name))


def precondition(resource: Resource, name: str, why: str) -> StatusError:
    message = f'Operation cannot be fulfilled on {resource.kind} "{name}": {why}'
    return StatusError(409, "Conflict", message, details=_details(resource, name, kind=resource.kind))


STALE = "the object has been modified; please apply your changes to the latest version and try again"


def apply_conflict(message: str, causes: list[dict[str, Any]]) -> StatusError:
    return StatusError(409, "Conflict", message, details={"causes": causes})


def invalid(resource: Resource, name: str, causes: Sequence[tuple[str, str, str]]) -> StatusError:
    """``causes``: (reason, field, message)."""
    listed = [{"reason": reason, "message": text, "field": path} for reason, path, text in causes]
    texts = [f"{path}: {text}" for _, path, text in causes]
    joined = texts[0] if len(texts) == 1 else "[" + ", ".join(texts) + "]"
    kind = f"{resource.kind}.{resource.group}" if resource.group else resource.kind
    return StatusError(
        422,
        "Invalid",
        f'{kind} "{name}" is invalid: {joined}',
        details=_details(resource, name, kind=resource.kind, causes=listed),
    )


def forbidden(
    resource: Resource, name: str, why: str, causes: list[dict[str, Any]] | None = None
) -> StatusError:
    more: dict[str, Any] = {"causes": causes} if causes else {}
    message = f'{resource.qualified} "{name}" is forbidden: {why}'
    return StatusError(403, "Forbidden", message, details=_details(resource, name, **more))


def bad_request(message: str) -> StatusError:
    return StatusError(400, "BadRequest", message)


def expired(message: str) -> StatusError:
    return StatusError(410, "Expired", message)


def unauthorized() -> StatusError:
    return StatusError(401, "Unauthorized", "Unauthorized")


def method_not_allowed() -> StatusError:
    message = "the server does not allow this method on the requested resource"
    return StatusError(405, "MethodNotAllowed", message, details={})


def unsupported_media(message: str) -> StatusError:
    return StatusError(415, "UnsupportedMediaType", message)


def not_acceptable(accepted: str) -> StatusError:
    message = f"only the following media types are accepted: {accepted}"
    return StatusError(406, "NotAcceptable", message)
