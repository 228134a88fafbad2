"""Asks a program's probes over a real connection, also in ways that no honest client would."""

from __future__ import annotations

import http.client
import socket
import time

from prometheus_client.parser import text_string_to_metric_families


def ask(address: str, path: str, method: str = "GET") -> tuple[int, str]:
    """Status and body."""
    connection = http.client.HTTPConnection(address, timeout=10)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def raw(address: str, data: bytes, seconds: float = 12.0) -> tuple[bytes, float]:
    """What comes back until the other side closes, and after how many seconds it did."""
    host, _, port = address.rpartition(":")
    began = time.monotonic()
    answer = b""
    with socket.create_connection((host, int(port)), timeout=seconds) as line:
        try:
            line.sendall(data)
            while piece := line.recv(65536):
                answer += piece
        except ConnectionError:
            pass  # closed in the middle of what we sent
    return answer, time.monotonic() - began


def series(text: str) -> dict[str, list[dict[str, str]]]:
    """Name of each sample to its label sets."""
    found: dict[str, list[dict[str, str]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(dict(sample.labels))
    return found
