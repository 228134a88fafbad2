"""Addresses as people and tokens carry them: ``host:port``, IPv6 hosts in brackets.

Owns what can be said of such a text without asking a network.
"""

from __future__ import annotations

import ipaddress


def is_wildcard(address: str) -> bool:
    """Whether the host means every address of the machine that listens, so that nobody else can use it."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return host == "*"
