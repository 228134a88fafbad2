"""Who is in contact, and who has been silent for too long.

Owns one timer for all contacts of one beat; a contact has none of its own. What silence means is the contact's.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

SILENCE_BEATS = 2.5


class Contact(Protocol):
    """``heard`` is when something last came, in seconds of the event loop's clock; ``beat`` is in seconds too."""

    heard: float

    @property
    def beat(self) -> int: ...

    def silent(self) -> None:
        """Nothing came for two and a half beats; told again while it is kept."""


class Contacts:
    def __init__(self) -> None:
        self._by_beat: dict[int, dict[int, Contact]] = {}

    def add(self, contact: Contact) -> None:
        """Watches it until it is removed."""
        group = self._by_beat.get(contact.beat)
        if group is None:
            group = self._by_beat[contact.beat] = {}
            self._arm(contact.beat)
        group[id(contact)] = contact

    def remove(self, contact: Contact) -> None:
        self._by_beat.get(contact.beat, {}).pop(id(contact), None)

    def _arm(self, beat: int) -> None:
        asyncio.get_running_loop().call_later(beat / 2, self._sweep, beat)

    def _sweep(self, beat: int) -> None:
        group = self._by_beat[beat]
        if not group:
            del self._by_beat[beat]
            return
        self._arm(beat)
        limit = asyncio.get_running_loop().time() - beat * SILENCE_BEATS
        for contact in [contact for contact in group.values() if contact.heard < limit]:
            contact.silent()
