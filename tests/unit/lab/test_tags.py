"""What an image tag stands for."""

from __future__ import annotations

import pytest
from muster_lab.podplayer.tags import NEVER, READY, Behaviour, of_image, of_pod


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("registry.example/shop:1.0", READY),
        ("registry.example/shop:2.0-never", NEVER),
        ("registry.example:5000/never/shop", READY),
        ("registry.example/shop:crash-after-3s", Behaviour(crash_after=3.0)),
        ("registry.example/shop:2.0-crash-after-1.5s@sha256:00", Behaviour(crash_after=1.5)),
        ("", READY),
    ],
)
def test_the_tag_decides(image: str, expected: Behaviour) -> None:
    assert of_image(image) == expected


def test_the_worst_container_decides() -> None:
    images = ["a:1", "b:crash-after-9s", "c:crash-after-2s"]
    assert of_pod({"containers": [{"image": image} for image in images]}) == Behaviour(crash_after=2.0)
    assert of_pod({"containers": [{"image": "a:1"}, {"image": "b:never"}]}) == NEVER
