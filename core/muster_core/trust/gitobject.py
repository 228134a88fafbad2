"""A commit or an annotated tag, read byte by byte, with the signature taken out of it.

Why it exists: a signature approves bytes, and only the reader of those bytes decides which they are. What is
taken out of an object before its signature is checked is approved by nobody, so this reader takes out exactly
one thing, the signature itself, where ``git`` puts it: the ``gpgsig`` header of a commit (``gpgsig-sha256`` in a
SHA-256 repository), the end of a tag. It is stricter than ``git``, which drops further headers that begin with
``gpgsig`` unread and joins repeated ones: both are refused here.

It never checks a signature, never computes an object id (the Git side recomputes them) and never reads dates:
those inside commits mean nothing for trust.
"""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from muster_core.errors import TrustError

MAX_OBJECT = 1 << 20
MAX_SIGNATURE = 64 << 10

Scheme = Literal["", "ssh", "openpgp", "x509"]

# What git takes for the beginning of a signature, at the beginning of a line and without looking at its rest.
_BEGINNINGS: tuple[tuple[bytes, Scheme], ...] = (
    (b"-----BEGIN SSH SIGNATURE-----", "ssh"),
    (b"-----BEGIN PGP SIGNATURE-----", "openpgp"),
    (b"-----BEGIN PGP MESSAGE-----", "openpgp"),
    (b"-----BEGIN SIGNED MESSAGE-----", "x509"),
)
_BEGINNING = re.compile(b"^(?:" + b"|".join(re.escape(text) for text, _ in _BEGINNINGS) + b")", re.MULTILINE)
_ID = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_HEADER_NAME = re.compile(rb"[!-~]+")
_TARGET_KINDS = frozenset({"commit", "tag", "tree", "blob"})
# Headers of a commit that stand at one place, once; git would not look at another of them.
_PLACED = frozenset({b"tree", b"parent", b"author", b"committer"})


class SignedObject(msgspec.Struct, frozen=True):
    """One commit or tag. ``payload`` is exactly what was signed, ``signature`` the armoured signature or None."""

    kind: Literal["commit", "tag"]
    tree: str  # commits: hex id of the tree; tags: ""
    parents: tuple[str, ...]
    target: str  # tags: the tagged object's id; commits: ""
    target_kind: str  # tags: "commit", "tag", "tree", "blob"; commits: ""
    name: str  # tags: the inner name; commits: ""
    payload: bytes
    signature: bytes | None
    scheme: Scheme  # "" when unsigned


def parse_object(kind: str, data: bytes) -> SignedObject:
    """The object of ``git cat-file <kind> <id>``.

    Raises :class:`TrustError` T050 for anything that is not exactly one commit or tag of at most 1 MiB with at
    most one signature of at most 64 KiB.
    """
    if len(data) > MAX_OBJECT:
        raise _malformed(kind, f"it has {len(data)} bytes and {MAX_OBJECT} are allowed")
    if b"\0" in data:
        raise _malformed(kind, "it has a NUL byte")
    end = data.find(b"\n\n")
    if end < 0:
        raise _malformed(kind, "its headers do not end")
    if kind == "commit":
        return _commit(data, end + 1)
    if kind == "tag":
        return _tag(data, end + 1)
    raise _malformed(kind, "only commits and tags are signed")


def _malformed(kind: str, what: str) -> TrustError:
    return TrustError(
        "T050", f"a Git object cannot be trusted, {what}", object=kind, hint="Make it again with `git`."
    )


def _headers(kind: str, block: bytes) -> list[tuple[bytes, bytes, int, int]]:
    """(name, value with folded lines joined by LF, start, end) of each header; ``block`` ends with LF."""
    found: list[tuple[bytes, list[bytes], int, int]] = []
    start = 0
    for line in block[:-1].split(b"\n"):
        end = start + len(line) + 1
        if line.startswith(b" "):
            if not found:
                raise _malformed(kind, "its first line continues nothing")
            name, lines, begun, _ = found[-1]
            lines.append(line[1:])
            found[-1] = (name, lines, begun, end)
        else:
            name, space, value = line.partition(b" ")
            if not space or not _HEADER_NAME.fullmatch(name):
                raise _malformed(kind, "a line of its headers is not `name value`")
            found.append((name, [value], start, end))
        start = end
    return [(name, b"\n".join(lines), begun, end) for name, lines, begun, end in found]


def _commit(data: bytes, end: int) -> SignedObject:
    headers = _headers("commit", data[:end])
    names = [name for name, _, _, _ in headers]
    count = 1
    while count < len(names) and names[count] == b"parent":
        count += 1
    if names[:1] != [b"tree"] or names[count : count + 2] != [b"author", b"committer"]:
        raise _malformed("commit", "its headers are not tree, parents, author, committer in this order")
    if _PLACED.intersection(names[count + 2 :]) or names.count(b"encoding") > 1:
        raise _malformed("commit", "one of its headers is there twice")
    if any(b"\n" in value for _, value, _, _ in headers[: count + 2]):
        raise _malformed("commit", "one of its first headers has two lines")
    tree, *parents = (_id("commit", value) for _, value, _, _ in headers[:count])
    if any(len(parent) != len(tree) for parent in parents):
        raise _malformed("commit", "its ids are of different lengths")

    own = b"gpgsig" if len(tree) == 40 else b"gpgsig-sha256"
    signatures = [header for header in headers if header[0].startswith(b"gpgsig")]
    if not signatures:
        return SignedObject("commit", tree, tuple(parents), "", "", "", data, None, "")
    if len(signatures) > 1 or signatures[0][0] != own:
        raise _malformed("commit", f"it may have one `{own.decode()}` header and no other like it")
    _, value, start, stop = signatures[0]
    signature = value + b"\n"
    scheme = _scheme("commit", signature)
    payload = data[:start] + data[stop:]
    return SignedObject("commit", tree, tuple(parents), "", "", "", payload, signature, scheme)


def _tag(data: bytes, end: int) -> SignedObject:
    headers = _headers("tag", data[:end])
    if [name for name, _, _, _ in headers] != [b"object", b"type", b"tag", b"tagger"]:
        raise _malformed("tag", "its headers are not object, type, tag, tagger, each once, in this order")
    target, target_kind, name, _ = (value for _, value, _, _ in headers)
    target_id = _id("tag", target)
    if target_kind.decode("ascii", "replace") not in _TARGET_KINDS:
        raise _malformed("tag", "the kind of what it tags is unknown")
    try:
        inner = name.decode()
    except UnicodeDecodeError:
        raise _malformed("tag", "its name is not UTF-8") from None
    if not inner or not inner.isprintable() or " " in inner:
        raise _malformed("tag", "its name is no name of a tag")

    payload, signature, scheme = data, None, _UNSIGNED
    begin = -1
    for match in _BEGINNING.finditer(data, end):  # the last one counts, as for git
        begin = match.start()
    if begin >= 0:
        payload, signature = data[:begin], data[begin:]
        scheme = _scheme("tag", signature)
    return SignedObject("tag", "", (), target_id, target_kind.decode(), inner, payload, signature, scheme)


_UNSIGNED: Scheme = ""


def _id(kind: str, value: bytes) -> str:
    text = value.decode("ascii", "replace")
    if not _ID.fullmatch(text):
        raise _malformed(kind, "an id in it is not 40 or 64 lower-case hex digits")
    return text


def _scheme(kind: str, signature: bytes) -> Scheme:
    if len(signature) > MAX_SIGNATURE:
        raise _malformed(kind, f"its signature has {len(signature)} bytes and {MAX_SIGNATURE} are allowed")
    for beginning, scheme in _BEGINNINGS:
        if signature.startswith(beginning):
            return scheme
    raise _malformed(kind, "its signature is of no known kind")
