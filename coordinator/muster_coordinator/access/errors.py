"""The two ways in which a call is not let in.

Owns the classes alone, so that every module of this package can raise them.
"""

from __future__ import annotations

from muster_core.errors import MusterError


class UnauthenticatedError(MusterError):
    """No credential, or one that does not hold (gRPC UNAUTHENTICATED, exit code 4)."""


class DeniedError(MusterError):
    """A credential that holds and does not suffice (gRPC PERMISSION_DENIED, exit code 4)."""
