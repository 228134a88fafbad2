"""The join token: what a new agent must know before it trusts anybody.

Owns the encoding (a versioned PAE, base64url). The secret inside is made and checked by the coordinator;
everything else comes from the operator's own checkout. It never makes randomness.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field

from muster_core.errors import JoinError, ValidationError
from muster_core.pae import pae, unpae

VERSION = b"muster.token.v1"
MAX_LENGTH = 32 << 10


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository that the agent will pull, and the commit that its first acceptance must descend from."""

    name: str
    url: str
    branch: str
    anchor: str


@dataclass(frozen=True, slots=True)
class JoinToken:
    """``secret`` is shown to nobody; ``trust_digest`` is empty while the mode is ``open``."""

    edge_address: str
    link_address: str
    ca_pem: bytes
    secret: str = field(repr=False)
    cluster: str
    mode: str
    trust_digest: str
    fleet_id: str
    repositories: tuple[Repository, ...]

    def encode(self) -> str:
        """Base64url text without padding, safe in a file, a flag or an environment variable."""
        repositories = (
            pae(*(text.encode() for text in (r.name, r.url, r.branch, r.anchor))) for r in self.repositories
        )
        texts = (
            self.edge_address,
            self.link_address,
            self.secret,
            self.cluster,
            self.mode,
            self.trust_digest,
            self.fleet_id,
        )
        data = pae(VERSION, self.ca_pem, pae(*(text.encode() for text in texts)), pae(*repositories))
        return base64.urlsafe_b64encode(data).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str) -> JoinToken:
        """``MUSTER-J001`` for anything that is not a whole token of this version."""
        text = text.strip()
        if len(text) > MAX_LENGTH:
            raise _broken("it is too long")
        try:
            data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
            version, ca_pem, texts, repositories = unpae(data)
            if version != VERSION:
                raise _broken("it is of another version")
            edge, link, secret, cluster, mode, trust, fleet = (part.decode() for part in unpae(texts))
            parsed = tuple(
                Repository(*(part.decode() for part in unpae(item))) for item in unpae(repositories)
            )
        except (binascii.Error, ValueError, TypeError, ValidationError) as error:
            raise _broken("it is cut or changed") from error
        return cls(edge, link, ca_pem, secret, cluster, mode, trust, fleet, parsed)


def _broken(why: str) -> JoinError:
    return JoinError(
        "J001",
        f"this is not a join token: {why}",
        hint="Copy it whole, or make a new one: muster token create.",
    )
