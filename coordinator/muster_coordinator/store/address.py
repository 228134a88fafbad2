"""Where a shared database is: a PostgreSQL URL whose password shows nowhere.

Owns reading the URL and how it is told to people. It never opens a connection.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from muster_coordinator.store.port import StoreError

SCHEMES = frozenset({"postgresql", "postgres"})
SECRET_OPTIONS = frozenset({"password", "sslpassword"})
MAX_BYTES = 4096
MASK = "****"


class DatabaseUrl:
    """``postgresql://USER:PASSWORD@HOST:PORT/NAME?sslmode=…``; prints without what is secret in it."""

    __slots__ = ("_parts",)

    def __init__(self, parts: SplitResult) -> None:
        self._parts = parts

    @classmethod
    def parse(cls, text: str) -> DatabaseUrl:
        """``MUSTER-L053`` for what is no URL of a PostgreSQL database; the text itself is never repeated."""
        hint = "Write postgresql://USER:PASSWORD@HOST:PORT/NAME."
        try:
            parts = urlsplit(text.strip())
            _ = parts.port
        except ValueError:
            raise StoreError("L053", "this is no URL", object="--database", hint=hint) from None
        if parts.scheme not in SCHEMES:
            raise StoreError(
                "L053", "only a postgresql:// URL names a shared database", object="--database", hint=hint
            )
        if not parts.path.strip("/") or "/" in parts.path.strip("/"):
            raise StoreError("L053", "the URL names no database", object="--database", hint=hint)
        return cls(parts)

    @classmethod
    def of_file(cls, path: Path) -> DatabaseUrl:
        """The first line of a file, so that no password stands in a process's arguments."""
        with path.open("rb") as file:
            text = file.read(MAX_BYTES + 1)
        try:
            lines = text.decode().split()
        except UnicodeDecodeError:
            lines = []
        if len(text) > MAX_BYTES or len(lines) != 1:
            raise StoreError(
                "L053", "the file must hold one line, a postgresql:// URL", object=str(path), hint=""
            )
        return cls.parse(lines[0])

    def reveal(self) -> str:
        """As the driver needs it."""
        return urlunsplit(self._parts._replace(scheme="postgresql+psycopg"))

    def secrets(self) -> list[str]:
        """Texts that no message may repeat."""
        found = [unquote(self._parts.password), self._parts.password] if self._parts.password else []
        return found + [value for key, value in parse_qsl(self._parts.query) if key in SECRET_OPTIONS]

    def without_secrets(self, text: str) -> str:
        for secret in self.secrets():
            text = text.replace(secret, MASK)
        return text

    def __str__(self) -> str:
        user, at, host = self._parts.netloc.rpartition("@")
        name, colon, _ = user.partition(":")
        shown = f"{name}{colon}{MASK if colon else ''}{at}{host}"
        query = urlencode(
            [(k, MASK if k in SECRET_OPTIONS else v) for k, v in parse_qsl(self._parts.query)], safe="*/"
        )
        return urlunsplit(("postgresql", shown, self._parts.path, query, ""))

    __repr__ = __str__
