"""A bad line: every connection over it is cut off after so many seconds or bytes.

Owns a TCP relay in threads, for tests of either kind. It never looks into what it carries.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class CuttingLine:
    """Relays connections to ``target`` (host, port); ``cut`` counts those that it has cut off."""

    def __init__(self, target: tuple[str, int], seconds: float, limit: int) -> None:
        self._target, self._seconds, self._limit = target, seconds, limit
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.opened = self.cut = 0
        self.mended = False

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def serve(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return  # closed
            self.opened += 1
            threading.Thread(target=self._carry, args=(near,), daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _carry(self, near: socket.socket) -> None:
        with near, socket.create_connection(self._target) as far:
            carried = [0]
            timer = threading.Timer(self._seconds, self._drop, args=(near, far))
            timer.daemon = True
            if not self.mended:
                timer.start()
            ways = [
                threading.Thread(target=self._copy, args=(*pair, carried, timer), daemon=True)
                for pair in ((near, far), (far, near))
            ]
            for way in ways:
                way.start()
            for way in ways:
                way.join()
            timer.cancel()

    def _copy(
        self, source: socket.socket, sink: socket.socket, carried: list[int], timer: threading.Timer
    ) -> None:
        with contextlib.suppress(OSError):
            while chunk := source.recv(1 << 16):
                carried[0] += len(chunk)
                if carried[0] > self._limit and not self.mended:
                    timer.cancel()
                    self._drop(source, sink)
                    return
                sink.sendall(chunk)
            sink.shutdown(socket.SHUT_WR)

    def _drop(self, *ends: socket.socket) -> None:
        self.cut += 1
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@contextmanager
def cutting_line(target: str, seconds: float = 2.0, limit: int = 16_000) -> Iterator[CuttingLine]:
    """A line to ``host:port`` on a free port of loopback until the block is left."""
    host, _, port = target.rpartition(":")
    line = CuttingLine((host, int(port)), seconds, limit)
    thread = threading.Thread(target=line.serve, daemon=True)
    thread.start()
    try:
        yield line
    finally:
        line.close()
        thread.join(5)
