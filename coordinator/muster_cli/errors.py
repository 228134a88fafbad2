"""What a command can end with beside success, as errors that carry their exit code.

Owns the three outcomes that come from a coordinator's answer. It never imports the wire: the entry point
needs these classes before anything heavy is loaded.
"""

from __future__ import annotations

from muster_core.errors import LinkError, MusterError


class NotFoundError(MusterError):
    """The coordinator knows no such thing: exit code 3."""


class DeniedError(MusterError):
    """The credential does not suffice, or a policy forbids it: exit code 4."""


class InvalidRequestError(MusterError):
    """The coordinator cannot make sense of what was asked: exit code 2."""


class UnreachableError(LinkError):
    """Nobody answers, or not in time: exit code 5."""
