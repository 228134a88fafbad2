"""What a tool wrote for the same input before.

Owns a small memory of outputs by the digest of everything that went in, compressed, bounded in bytes, the least recently used
going first. It is never written to disk. It never judges what it holds.
"""

from __future__ import annotations

import hashlib
import zlib
from collections import OrderedDict
from collections.abc import Sequence

from muster_core.tree import Tree

MAX_BYTES = 8 << 20


class Outputs:
    """``max_bytes`` bounds the compressed outputs together; one that is larger than a quarter of it is not kept."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._max_bytes, self.bytes = max_bytes, 0
        self._kept: OrderedDict[bytes, bytes] = OrderedDict()

    def get(self, key: bytes) -> bytes | None:
        found = self._kept.get(key)
        if found is None:
            return None
        self._kept.move_to_end(key)
        return zlib.decompress(found)

    def put(self, key: bytes, output: bytes) -> None:
        small = zlib.compress(output, 1)
        if len(small) > self._max_bytes // 4:
            return
        self.bytes += len(small) - len(self._kept.pop(key, b""))
        self._kept[key] = small
        while self.bytes > self._max_bytes:
            _, gone = self._kept.popitem(last=False)
            self.bytes -= len(gone)


def input_digest(tree: Tree, arguments: Sequence[str]) -> bytes:
    """SHA-256 over what the tool is told and every file that it sees: mode, path and content, each with its length."""
    digest = hashlib.sha256()
    for argument in arguments:
        _add(digest, argument.encode())
    for file in tree.files():
        for part in (file.mode.encode(), file.path.encode(), hashlib.sha256(tree.read(file.path)).digest()):
            _add(digest, part)
    return digest.digest()


def _add(digest: hashlib._Hash, part: bytes) -> None:
    digest.update(len(part).to_bytes(8, "little") + part)
