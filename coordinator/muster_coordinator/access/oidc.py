"""Bearer tokens of an OIDC issuer: verified, and turned into a name and a role.

Owns what a token must say. PyJWT checks signature, times, issuer and audience; the list of algorithms is fixed here and never
taken from a token. Roles come from groups by the operator's own table: a token cannot name a role.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jwt

from muster_coordinator.access.errors import DeniedError, UnauthenticatedError
from muster_coordinator.access.issuer import ALGORITHMS, IssuerKeys
from muster_coordinator.access.roles import Role

LEEWAY_SECONDS = 60
MAX_TOKEN_BYTES = 16 << 10
MAX_NAME_BYTES = 200
_TYPES = (None, "jwt", "at+jwt", "application/at+jwt")
_REQUIRED = ("exp", "iat", "iss", "aud", "sub")


@dataclass(frozen=True, slots=True)
class OidcSettings:
    """``roles`` maps a group to a role. ``required`` are claims that must have exactly this text (a tenant's id)."""

    issuer: str
    audience: str
    roles: Mapping[str, Role]
    groups_claim: str = "groups"
    name_claim: str = "sub"
    required: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Claims:
    name: str
    role: Role


class TokenVerifier:
    """Tokens of one issuer for one audience."""

    def __init__(self, settings: OidcSettings, keys: IssuerKeys) -> None:
        self._settings, self._keys = settings, keys

    async def verify(self, token: str) -> Claims:
        """The name and role that a token gives.

        ``MUSTER-L060`` for one that does not hold, ``MUSTER-L061`` without a role, ``MUSTER-L063`` when the issuer is away.
        """
        key = await self._keys.get(_key_id(token))
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=ALGORITHMS,
                audience=self._settings.audience,
                issuer=self._settings.issuer,
                leeway=LEEWAY_SECONDS,
                options={"require": list(_REQUIRED)},
            )
        except jwt.PyJWTError as error:
            raise _invalid(str(error)) from error
        for name, text in self._settings.required.items():
            if claims.get(name) != text:
                raise _invalid(f"the claim {name} is not {text}")
        return Claims(self._name(claims), self._role(claims))

    def _name(self, claims: Mapping[str, Any]) -> str:
        name = claims.get(self._settings.name_claim)
        if not isinstance(name, str) or not name.strip() or not name.isprintable():
            raise _invalid(f"the claim {self._settings.name_claim} names nobody")
        if len(name.encode(errors="replace")) > MAX_NAME_BYTES:
            raise _invalid(f"the claim {self._settings.name_claim} is too long")
        return name

    def _role(self, claims: Mapping[str, Any]) -> Role:
        """The highest role of the groups that are mapped."""
        groups = claims.get(self._settings.groups_claim, [])
        groups = [groups] if isinstance(groups, str) else groups
        if not isinstance(groups, list):
            raise _invalid(f"the claim {self._settings.groups_claim} is no list of groups")
        roles = [
            self._settings.roles[group]
            for group in groups
            if isinstance(group, str) and group in self._settings.roles
        ]
        if not roles:
            raise DeniedError(
                "L061",
                "the token is valid, and none of its groups has a role here",
                object=str(claims.get("sub", ""))[:MAX_NAME_BYTES],
                hint="An administrator maps a group with: muster serve --oidc-role GROUP=ROLE.",
            )
        return max(roles)


def _key_id(token: str) -> str:
    """From the header of a token that is at least shaped as one of ours: only then is an issuer asked."""
    if len(token) > MAX_TOKEN_BYTES:
        raise _invalid("it is too long")
    try:
        header = jwt.get_unverified_header(token)
    except (jwt.PyJWTError, ValueError) as error:
        raise _invalid("it is no signed token") from error
    kid, kind = header.get("kid"), header.get("typ")
    if header.get("alg") not in ALGORITHMS:
        raise _invalid("its algorithm is not one of " + ", ".join(ALGORITHMS))
    if not isinstance(kid, str) or (kind.lower() if isinstance(kind, str) else kind) not in _TYPES:
        raise _invalid("its header is not one of a sign-in token")
    return kid


def _invalid(why: str) -> UnauthenticatedError:
    return UnauthenticatedError("L060", f"the token does not hold: {why}", hint="Sign in again.")
