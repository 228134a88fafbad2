"""Secret bytes that do not show themselves.

Owns masking by type: what is printed, logged, formatted or encoded is stars. Only :meth:`Masked.reveal`
gives the bytes, so every place that does is found by its name.
"""

from __future__ import annotations

import hmac
from typing import NoReturn


class Masked:
    """Plaintext that prints as ``****``."""

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = value

    def reveal(self) -> bytes:
        return self._value

    def __repr__(self) -> str:
        return "****"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return "****"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Masked) and hmac.compare_digest(self._value, other._value)

    def __hash__(self) -> int:
        return hash(type(self))

    def __reduce__(self) -> NoReturn:
        raise TypeError("a masked value is not serialised")
