"""A join token, made from what the operator has checked out.

Owns the assembly: only the secret part comes from the coordinator, everything that it must not choose (CA certificate,
mode, repositories, anchors) from the context and the checkout. It never stores a token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from muster_core.addresses import is_wildcard
from muster_core.errors import JoinError
from muster_core.token import JoinToken, Repository

from muster_cli.checkout import REGISTRY_BRANCH
from muster_cli.trust.chain import read_chain

if TYPE_CHECKING:
    from muster_core.kinds.model import Fleet

    from muster_cli.checkout import Checkout
    from muster_cli.client import OperatorClient


@dataclass(frozen=True, slots=True)
class Reached:
    """Addresses as the site reaches them, where they differ from what the operator knows."""

    edge: str | None = None
    link: str | None = None
    repository_url: str | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """What every token of one moment shares, all of it from the operator's side. ``anchor`` is pushed."""

    fleet: Fleet
    trust_digest: str
    anchor: str
    registry_anchor: str
    branch: str
    url: str
    edge: str
    link: str


def source_of(clone: Checkout, operator: OperatorClient, reached: Reached) -> Source:
    """Reads the checkout; ``MUSTER-J011`` when the coordinator serves another fleet, ``J016`` when no cluster could
    reach the addresses."""
    fleet = clone.fleet()
    anchor = clone.published_head()
    info = operator.info()
    if info.fleet_id and info.fleet_id != fleet.spec.id:
        raise JoinError(
            "J011", "your checkout is of another fleet than the coordinator's", object=info.fleet_name
        )
    edge = reached.edge or info.edge_address or operator.context.edge
    link = reached.link or info.link_address
    for address, flag in ((edge, "edge"), (link, "link")):
        if is_wildcard(address):
            raise JoinError(
                "J016",
                f"no cluster can reach the coordinator's {flag} listener at this address",
                object=address,
                hint=f"Start it with `muster serve --advertise-{flag} HOST:PORT`, or pass --{flag}-address HOST:PORT.",
            )
    # A token without a trust document that holds could only be one of mode open.
    trust_digest = "" if fleet.spec.mode == "open" else read_chain(clone.tree(anchor)).require().digest
    return Source(
        fleet,
        trust_digest,
        anchor,
        clone.fetch(REGISTRY_BRANCH),
        clone.branch(),
        reached.repository_url or clone.url,
        edge,
        link,
    )


def mint(source: Source, operator: OperatorClient, cluster: str, seconds: int) -> str:
    """One token, good once, for one name, for ``seconds``."""
    made = operator.create_token(cluster, seconds)
    repositories = [Repository("fleet", source.url, source.branch, source.anchor)]
    if source.registry_anchor:
        repositories.append(Repository("registry", source.url, REGISTRY_BRANCH, source.registry_anchor))
    return JoinToken(
        edge_address=source.edge,
        link_address=source.link,
        ca_pem=operator.context.ca_pem,
        secret=made.secret,
        cluster=cluster,
        mode=source.fleet.spec.mode,
        trust_digest=source.trust_digest,
        fleet_id=source.fleet.spec.id,
        repositories=tuple(repositories),
    ).encode()
