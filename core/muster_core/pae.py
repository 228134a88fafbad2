"""Pre-authentication encoding: the one way in which a list of byte strings becomes bytes to sign or seal.

Owns the encoding (DESIGN: u64-LE count, then u64-LE length and bytes of each) and its strict inverse. It
never knows what the parts mean; the first part of every use is a domain string.
"""

from __future__ import annotations

import struct

from muster_core.errors import ValidationError


def u64(value: int) -> bytes:
    """An unsigned 64-bit little-endian integer."""
    return struct.pack("<Q", value)


def pae(*parts: bytes) -> bytes:
    """The encoding of ``parts``; different lists never have one encoding."""
    return b"".join([u64(len(parts)), *(u64(len(part)) + part for part in parts)])


def unpae(data: bytes) -> tuple[bytes, ...]:
    """The parts of an encoding; anything left over, missing or too long is a :class:`ValidationError`."""
    if len(data) < 8:
        raise ValidationError("V030", "this is not an encoded list: it is too short")
    (count,) = struct.unpack_from("<Q", data)
    if count > len(data) // 8:
        raise ValidationError("V030", "this is not an encoded list: it claims more parts than it has bytes")
    parts, at = [], 8
    for _ in range(count):
        if at + 8 > len(data):
            raise ValidationError("V030", "this is not an encoded list: it ends inside a length")
        (length,) = struct.unpack_from("<Q", data, at)
        at += 8
        if length > len(data) - at:
            raise ValidationError("V030", "this is not an encoded list: it ends inside a part")
        parts.append(data[at : at + length])
        at += length
    if at != len(data):
        raise ValidationError("V030", "this is not an encoded list: bytes are left over")
    return tuple(parts)
