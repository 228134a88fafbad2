"""What the coordinator asks other servers, over real connections."""

from __future__ import annotations

import socket

import anyio
import pytest
from aiohttp import web
from muster_coordinator.outgoing import MAX_ANSWER, Outgoing, OutgoingError, is_http, shown
from unit.coordinator.listener import Asked, listening


async def test_a_redirect_is_an_answer_and_is_not_followed() -> None:
    async with listening() as there, Outgoing() as outgoing:

        async def away(asked: Asked) -> web.Response:
            return web.Response(status=302, headers={"Location": there.url + "/secret"})

        there.answer = away
        answer = await outgoing.get(there.url + "/check", 5)
        assert answer.status == 302
        assert [asked.path for asked in there.asked] == ["/check"]


async def test_an_answer_without_end_is_cut_where_the_limit_is() -> None:
    async with listening() as there, Outgoing() as outgoing:

        async def endless(asked: Asked) -> web.StreamResponse:
            return web.Response(body=b"x" * (4 * MAX_ANSWER))

        there.answer = endless
        answer = await outgoing.get(there.url, 5)
        assert (len(answer.body), answer.whole) == (MAX_ANSWER, False)


async def test_an_answer_of_exactly_the_limit_is_whole() -> None:
    async with listening() as there, Outgoing() as outgoing:
        there.body = b"x" * MAX_ANSWER
        answer = await outgoing.get(there.url, 5)
        assert (len(answer.body), answer.whole) == (MAX_ANSWER, True)


async def test_a_packed_answer_is_not_unpacked() -> None:
    async with listening() as there, Outgoing() as outgoing:

        async def packed(asked: Asked) -> web.StreamResponse:
            response = web.Response(body=b"\x1f\x8b rubbish", headers={"Content-Encoding": "gzip"})
            response.enable_compression(web.ContentCoding.identity)
            return response

        there.answer = packed
        assert (await outgoing.get(there.url, 5)).body == b"\x1f\x8b rubbish"
        assert there.asked[0].headers["Accept-Encoding"] == "identity"


async def test_who_does_not_answer_in_time_is_named_without_its_path() -> None:
    async with listening() as there, Outgoing() as outgoing:

        async def silent(asked: Asked) -> web.StreamResponse:
            await anyio.sleep(30)
            return web.Response()

        there.answer = silent
        with pytest.raises(OutgoingError) as failed:
            await outgoing.get(
                there.url.replace("//", "//user:pass@") + "/services/T000/secret?token=abc", 0.2
            )
        assert failed.value.code == "R080"
        assert failed.value.retryable
        for secret in ("secret", "abc", "pass", "T000"):
            assert secret not in str(failed.value)


async def test_nobody_there_is_a_reason_in_words() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/hook/secret"
    async with Outgoing() as outgoing:
        with pytest.raises(OutgoingError, match=r"Connect call failed|Connection refused") as failed:
            await outgoing.get(url, 5)
    assert "secret" not in str(failed.value)


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "ftp://host/x", "http://", "host:80/x", "http://host:99999/", "", "gopher://h/"],
)
async def test_only_http_is_asked(url: str) -> None:
    assert not is_http(url)
    async with Outgoing() as outgoing:
        with pytest.raises(OutgoingError) as failed:
            await outgoing.get(url, 5)
    assert failed.value.code == "R081"


async def test_the_proxy_and_the_netrc_of_the_environment_do_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    async with listening() as there, Outgoing() as outgoing:
        assert (await outgoing.get(there.url, 5)).status == 200


async def test_a_cookie_of_one_answer_is_not_sent_with_the_next() -> None:
    async with listening() as there, Outgoing() as outgoing:

        async def baking(asked: Asked) -> web.StreamResponse:
            response = web.Response()
            response.set_cookie("session", "1")
            return response

        there.answer = baking
        await outgoing.get(there.url, 5)
        await outgoing.get(there.url, 5)
        assert "Cookie" not in there.asked[1].headers


def test_what_is_shown_of_a_url_is_where_it_is() -> None:
    assert (
        shown("https://user:pass@hooks.example.com:8443/T/B/secret?x=1#y") == "https://hooks.example.com:8443"
    )
    assert shown("http://[::1]:9090/x") == "http://[::1]:9090"
    assert shown("nonsense") == "(no URL)"
