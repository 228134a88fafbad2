"""Who calls, and whether they may: from a credential to a named principal with a role.

Owns the decision for every call of the operator API. Exactly one credential counts, and one that does not hold is an error,
never a reason to try the next. It never sees the wire: the link module reads the credential and carries the answer.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from muster_coordinator.access.errors import DeniedError, UnauthenticatedError
from muster_coordinator.access.oidc import TokenVerifier
from muster_coordinator.access.roles import ROLLOUT_ACTIONS, Role, least_role

_OPERATOR = re.compile(r"muster://operator/([A-Za-z0-9._@+-]{1,128})/(viewer|operator|approver|admin)")
_PREFIX = "muster://"
_BEARER = "bearer "


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a call came with: the ``authorization`` metadata as it was, and of a verified client certificate the URIs and the
    serial number (hex)."""

    authorization: str = field(default="", repr=False)
    uris: Sequence[str] = ()
    serial: str = ""


@dataclass(frozen=True, slots=True)
class Principal:
    """``how``: ``admin-token``, ``certificate`` or ``oidc``. ``name`` is what the audit log and rollouts say."""

    name: str
    role: Role
    how: str

    def require(self, role: Role, what: str) -> None:
        """``MUSTER-L062`` when this needs more than the principal has."""
        if self.role < role:
            raise DeniedError(
                "L062",
                f"this needs the role {role.word}, and {self.name} has {self.role.word}",
                object=what,
                hint=f"Who may: {role.and_above}. Ask one of them, or have an admin make you a certificate: "
                f"muster operator certificate {self.name} --role {role.word}.",
            )

    def require_action(self, action: str) -> None:
        """For an action on a rollout by its name on the wire (``PAUSE``); one that the table lacks is denied."""
        role = ROLLOUT_ACTIONS.get(action)
        if role is None:
            raise DeniedError("L062", "nobody may do this", object=action)
        self.require(role, action.lower())


class Access:
    """The one place that decides. Without ``verifier`` bearer tokens of an issuer are not accepted.

    ``require`` raises for a client certificate (serial number, name) that does not count, whatever TLS says of it.
    """

    def __init__(
        self,
        admin_token: str,
        verifier: TokenVerifier | None,
        require: Callable[[str, str], None],
    ) -> None:
        if not admin_token:
            raise ValueError("an empty admin token would let everybody in")
        self._admin_token, self._verifier, self._require = admin_token.encode(), verifier, require

    async def authorize(self, method: str, credentials: Credentials) -> Principal:
        """The caller of ``method`` (full gRPC name). Raises :class:`UnauthenticatedError` and :class:`DeniedError`.

        Whoever is not known learns nothing about which methods there are.
        """
        principal = await self.identify(credentials)
        self.allow(method, principal)
        return principal

    def allow(self, method: str, principal: Principal) -> None:
        """``MUSTER-L062`` when this principal may not call ``method``."""
        role = least_role(method)
        if role is None:
            raise DeniedError("L062", "nobody may call this", object=method)
        principal.require(role, method.rpartition("/")[2])

    async def identify(self, credentials: Credentials) -> Principal:
        """Who this is. ``MUSTER-L001`` without a credential, ``MUSTER-L060`` for one that does not hold."""
        certificate = _by_certificate(credentials.uris)
        if not credentials.authorization:
            if certificate:
                self._require(credentials.serial, certificate.name)
                return certificate
            raise UnauthenticatedError(
                "L001",
                "this needs an operator's credential",
                hint="Use the context file that `muster serve` wrote.",
            )
        if certificate:
            raise UnauthenticatedError("L060", "a call must carry one credential, and this one carries two")
        if credentials.authorization[: len(_BEARER)].lower() != _BEARER:
            raise UnauthenticatedError("L060", "the credential is no bearer token")
        return await self._by_token(credentials.authorization[len(_BEARER) :])

    async def _by_token(self, token: str) -> Principal:
        if hmac.compare_digest(token.encode(errors="replace"), self._admin_token):
            return Principal("admin", Role.ADMIN, "admin-token")
        if self._verifier is None:
            raise UnauthenticatedError(
                "L001",
                "this needs an operator's credential, and the token is not one that is known here",
                hint="Use the context file that `muster serve` wrote.",
            )
        claims = await self._verifier.verify(token)
        return Principal(claims.name, claims.role, "oidc")


def _by_certificate(uris: Sequence[str]) -> Principal | None:
    """From the one Muster URI of a certificate; a certificate that is anything else beside is nobody's."""
    ours = [uri for uri in uris if uri.startswith(_PREFIX)]
    if not any(uri.startswith("muster://operator/") for uri in ours):
        return None
    match = _OPERATOR.fullmatch(ours[0])
    if len(ours) != 1 or match is None:
        raise UnauthenticatedError("L060", "the client certificate does not name one operator and one role")
    return Principal(match[1], Role.parse(match[2]), "certificate")
