"""What an API server's refusal means.

Owns the mapping of a Status (HTTP code, reason, causes) to the port's typed errors. Messages are those of the
server: it knows best. Of a Secret only reasons and field names are told, for a server may quote what it refuses.
It never sends anything.
"""

from __future__ import annotations

from muster_core.errors import KubernetesError
from muster_core.manifest.objects import Manifest

SECRET_KIND = "v1/Secret"  # noqa: S105 - a kind


def typed_error(status: int, value: Manifest, what: str, retry_after: str) -> KubernetesError:
    """``what`` is the object asked for; ``retry_after`` the header in seconds, or empty."""
    message, reason = str(value.get("message") or f"HTTP {status}"), str(value.get("reason") or "")
    causes = (value.get("details") or {}).get("causes") or []
    immutable = "immutable" in message or any(
        "immutable" in str(cause.get("message", "")) for cause in causes
    )
    unknown = "failed to create typed patch object" in message  # a 500 for a field nobody knows
    if what.startswith(SECRET_KIND):
        fields = ", ".join(f"{cause.get('field')}: {cause.get('reason')}" for cause in causes[:3])
        message = f"{reason or f'HTTP {status}'}{f' ({fields})' if fields else ''}"
    if status == 409 and any(cause.get("reason") == "FieldManagerConflict" for cause in causes):
        fields = "; ".join(f"{cause.get('message')}: {cause.get('field')}" for cause in causes[:3])
        return KubernetesError(
            "K005",
            f"others manage fields of it ({fields})",
            object=what,
            retryable=True,
            hint="Take the field out of the bundle, or let the other manager give it up.",
        )
    if status == 410 or reason == "Expired":
        return KubernetesError("K008", message, object=what, retryable=True)
    if status == 429:
        return KubernetesError(
            "K002",
            "the API server asks to slow down" + (f", {retry_after} s" if retry_after else ""),
            object=what,
            retryable=True,
        )
    if status in (401, 403):
        return KubernetesError(
            "K003", message, object=what, retryable=True, hint="Grant it to the agent's service account."
        )
    if immutable:
        return KubernetesError(
            "K006",
            f"a field cannot be changed ({message})",
            object=what,
            hint="Give the object a new name, or delete it by hand.",
        )
    if status in (400, 422) or unknown:
        return KubernetesError("K007", message, object=what)
    if status >= 500:
        return KubernetesError("K001", f"the API server fails ({message})", object=what, retryable=True)
    return KubernetesError("K010", message, object=what, retryable=status == 409)
