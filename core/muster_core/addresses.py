"""Addresses as people and tokens carry them: ``host:port``, IPv6 hosts in brackets; and URLs.

Owns what can be said of such a text without asking a network.
"""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

MAX_URL = 8192


def is_wildcard(address: str) -> bool:
    """Whether the host means every address of the machine that listens, so that nobody else can use it."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return host == "*"


def is_http(url: str) -> bool:
    """Whether a request could go there: an http or https URL with a host, and a port that there is, without blanks."""
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return False
    plain = url.isprintable() and " " not in url and len(url) <= MAX_URL
    return plain and parts.scheme in ("http", "https") and bool(parts.hostname)
