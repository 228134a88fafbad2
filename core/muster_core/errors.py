"""The one root of every error a Muster program shows to a person.

Owns the shape of an error: a stable code, what happened, to which object, and what to do next.
It never formats for a terminal and never decides exit codes; the programs do.

Codes look like ``MUSTER-<letter><number>``. Letters: V validation, G Git, T trust, S secrets, P policy,
K Kubernetes, R rollout, L link, J joining.
"""

from __future__ import annotations


class MusterError(Exception):
    """What happened, to which object, and what to do.

    ``code`` is stable across versions. ``retryable`` says whether the same attempt may succeed later
    without anybody changing anything (a server that is down, not a field that is wrong).
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        object: str = "",  # noqa: A002 - the word that readers of errors know
        hint: str = "",
        retryable: bool = False,
    ) -> None:
        self.code = code
        self.message = message
        self.object = object
        self.hint = hint
        self.retryable = retryable
        super().__init__(code, message)

    def __str__(self) -> str:
        text = f"MUSTER-{self.code} {self.message}"
        if self.object:
            text += f": {self.object}"
        text = text if text.endswith((".", "!", "?")) else text + "."
        return f"{text} {self.hint}" if self.hint else text


def coded(code: str) -> str:
    """``MUSTER-P001``, however it was reported; empty for none."""
    return f"MUSTER-{code.removeprefix('MUSTER-')}" if code else ""


class ValidationError(MusterError):
    """Bad input from a file or a flag (V)."""


class GitError(MusterError):
    """A repository could not be read, or said something it must not (G)."""


class TrustError(MusterError):
    """A floor, an anchor, a signature or a digest does not hold (T)."""


class SecretError(MusterError):
    """A secret could not be sealed or opened (S). Never carries plaintext."""


class KubernetesError(MusterError):
    """An API server refused or failed (K)."""


class RolloutError(MusterError):
    """A rollout command does not apply in this state (R)."""


class LinkError(MusterError):
    """The line between agent, coordinator and operator (L)."""


class JoinError(MusterError):
    """A token or a join that is refused (J)."""


class PolicyError(MusterError):
    """A policy cannot be used, or forbids something (P)."""
