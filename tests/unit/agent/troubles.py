"""What the tests of troubles stand on: the pipeline's stage, a second bundle, and a wire that can be cut or go silent."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncIterator

import anyio
from anyio.abc import SocketAttribute, SocketStream
from muster_core.fleet import read_fleet
from muster_proto.v1 import link_pb2 as wire
from unit.agent.stage import bundle, config_map
from unit.agent.test_pipeline import Stage

#: A second bundle, which must not notice what happens to the first.
BLOG = {
    "bundles/blog/bundle.yaml": bundle(name="blog").replace("namespace: shop", "namespace: blog"),
    "bundles/blog/namespace.yaml": "apiVersion: v1\nkind: Namespace\nmetadata: {name: blog}\n",
    "bundles/blog/map.yaml": config_map("blog", "one"),
}


async def offer(stage: Stage, commit: str, rollout: str, name: str = "shop", digest: str = "") -> None:
    """``digest`` is for a bundle that no reader can give one: the offer of a coordinator that did not look."""
    if not digest:
        await stage.reconciler._source.fetch()
        digest = read_fleet(await stage.reconciler._source.tree(commit)).digests[name]
    release = wire.Release(bundle=name, commit=commit, tree_digest=digest)
    await stage.reconciler.receive(
        wire.HubFrame(offer=wire.Offer(rollout=rollout, release=release, attempt=1))
    )


def reports(stage: Stage, name: str = "shop") -> list[wire.Report]:
    found = [frame.report for frame in stage.frames if frame.HasField("report")]
    return [report for report in found if report.bundle == name]


def last(stage: Stage, name: str = "shop") -> wire.Report:
    return (reports(stage, name) or [wire.Report()])[-1]


async def phase(
    stage: Stage, wanted: str, name: str = "shop", code: str = "", seconds: float = 20, rollout: str = ""
) -> wire.Report:
    """The report in which the bundle is in this phase, with this code (empty: none)."""

    def so() -> bool:
        now = last(stage, name)
        return (now.phase, now.code) == (wanted, code) and rollout in ("", now.rollout)

    try:
        with anyio.fail_after(seconds):
            while not so():
                changed = stage.changed
                with anyio.move_on_after(0.05):
                    await changed.wait()
    except TimeoutError:
        raise AssertionError(f"wanted {wanted} {code!r}, the last report is {last(stage, name)}") from None
    return last(stage, name)


class Wire:
    """A TCP relay to the API server: it may refuse, or go silent while every connection stays open."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.url = ""
        self.opened = 0
        self.refusing = self.silent = False
        self._open: set[SocketStream] = set()

    @classmethod
    @contextlib.asynccontextmanager
    async def before(cls, stage: Stage) -> AsyncIterator[Wire]:
        """The stage's agents reach their server through it from now on."""
        address, port = stage.server.url.rsplit(":", 1)
        relay = cls(int(port))
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        relay.url = f"{address}:{listener.extra(SocketAttribute.local_port)}"
        config = stage.server.kubeconfig
        config.write_text(config.read_text().replace(stage.server.url, relay.url))
        async with listener, anyio.create_task_group() as group:
            group.start_soon(listener.serve, relay._carry)
            yield relay
            group.cancel_scope.cancel()

    async def cut(self) -> None:
        """Ends what is open and refuses what comes."""
        self.refusing = True
        for stream in list(self._open):
            await stream.aclose()

    async def _carry(self, near: SocketStream) -> None:
        self.opened += 1
        async with near:
            if self.refusing:
                near.extra(SocketAttribute.raw_socket).setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0"
                )
                return
            async with await anyio.connect_tcp("127.0.0.1", self._port) as far:
                self._open.add(near)
                with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                    async with anyio.create_task_group() as group:
                        group.start_soon(self._pump, near, far, group.cancel_scope)
                        group.start_soon(self._pump, far, near, group.cancel_scope)
                self._open.discard(near)

    async def _pump(self, source: SocketStream, sink: SocketStream, scope: anyio.CancelScope) -> None:
        stopped = self.silent  # only what was open when it went silent stays so
        with contextlib.suppress(anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            while True:
                data = await source.receive()
                if self.silent and not stopped:
                    await anyio.sleep_forever()
                await sink.send(data)
        scope.cancel()
