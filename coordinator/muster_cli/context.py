"""Which coordinator a command talks to.

Owns the context file that ``muster serve`` or ``muster operator certificate`` writes: address, CA certificate,
credential, all as paths or text in one JSON file. It never holds a credential longer than the command runs.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from muster_cli.errors import InvalidRequestError

MAX_BYTES = 1024 * 1024


class ContextFile(msgspec.Struct, frozen=True):
    """The file's fields; paths are relative to the file. Either edge and token, or link with certificate and key."""

    ca_pem_file: str
    edge: str = ""
    token_file: str = ""
    link: str = ""
    certificate_file: str = ""
    key_file: str = ""
    name: str = "default"


@dataclass(frozen=True, slots=True)
class Context:
    """A coordinator and how to get in."""

    name: str
    edge: str
    ca_pem: bytes
    token: str = field(default="", repr=False)
    link: str = ""
    certificate: bytes | None = None
    key: bytes | None = field(default=None, repr=False)

    @property
    def address(self) -> str:
        """The listener that takes this credential."""
        return self.link or self.edge


def folder() -> Path:
    """Where contexts live: ``$XDG_CONFIG_HOME/muster/contexts``."""
    base = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    return Path(base) / "muster" / "contexts"


def load(wanted: str | None) -> Context:
    """The context of flag or ``MUSTER_CONTEXT``, else the newest; ``MUSTER-L010`` when there is none."""
    wanted = wanted or os.environ.get("MUSTER_CONTEXT")
    path = _find(wanted)
    if not path.exists():
        raise InvalidRequestError(
            "L010",
            "there is no such context",
            object=str(path),
            hint="`muster serve` writes context.json into its data folder: pass --context FILE.",
        )
    try:
        file = msgspec.json.decode(_bytes(path), type=ContextFile)
        ca_pem = _bytes(path.parent / file.ca_pem_file)
        if file.link and file.certificate_file and file.key_file:
            certificate = _bytes(path.parent / file.certificate_file)
            key = _bytes(path.parent / file.key_file)
            return Context(file.name, file.edge, ca_pem, "", file.link, certificate, key)
        if not file.edge or not file.token_file:
            raise ValueError(
                "it names neither edge with token_file nor link with certificate_file and key_file"
            )
        token = _bytes(path.parent / file.token_file).decode().strip()
        if not (token.isascii() and token.isprintable()):
            raise ValueError("its token_file does not hold one line of plain text")
    except (OSError, ValueError) as error:
        raise InvalidRequestError(
            "L010",
            f"the context cannot be used ({_reason(error)})",
            object=str(path),
            hint="`muster serve` writes context.json into its data folder: pass --context FILE.",
        ) from error
    return Context(file.name, file.edge, ca_pem, token)


def _bytes(path: Path) -> bytes:
    """None of these files is large; one without an end, such as a device, is not read for ever."""
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise ValueError(f"{path} is larger than {MAX_BYTES} bytes")
    return data


def _reason(error: Exception) -> str:
    """Without the number of the system's error; the file it stands in may be one that the context names."""
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def _find(wanted: str | None) -> Path:
    if wanted:
        path = Path(wanted)
        return path if path.is_file() or "/" in wanted else folder() / f"{wanted}.json"
    known = sorted(folder().glob("*.json"), key=lambda path: path.stat().st_mtime)
    if not known:
        raise InvalidRequestError(
            "L010",
            "no coordinator is known here",
            hint="Start one with `muster serve`, then pass --context DATA_DIR/context.json or set MUSTER_CONTEXT.",
        )
    return known[-1]


def write(path: Path, file: ContextFile) -> None:
    """The file, readable by its owner alone."""
    write_private(path, msgspec.json.format(msgspec.json.encode(file), indent=2) + b"\n")


def write_private(path: Path, data: bytes) -> None:
    """A new file that only its owner can read, from its first moment; an old one is replaced as a whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    with open(new, "xb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(data)
    new.replace(path)
