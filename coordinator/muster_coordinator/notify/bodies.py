"""What a notification looks like to its reader: JSON for programs, chat messages for people, or an operator's own template.

Owns these forms. What agents and plans wrote stands in them as plain text, never as markup: a message from a cluster must not
mention a whole channel or hide a link. Pure.
"""

from __future__ import annotations

from datetime import UTC, datetime
from string import Template

import msgspec

from muster_coordinator.notify.notices import Notice

FIELDS = ("id", "on", "at", "rollout", "bundle", "commit", "text", "hint")


def body_of(kind: str, template: str, notice: Notice) -> bytes:
    """``kind`` as in the settings; ``template`` only where that is the kind."""
    match kind:
        case "slack":
            told: object = {"text": _slack(_lines(notice))}
        case "teams":
            told = _card(_lines(notice))
        case "template":
            escaped = {name: _inside_json(text) for name, text in _fields(notice).items()}
            return Template(template).substitute(escaped).encode()
        case _:
            told = _fields(notice)
    return msgspec.json.encode(told)


def _fields(notice: Notice) -> dict[str, str]:
    at = datetime.fromtimestamp(notice.at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    values = {name: getattr(notice, name) for name in FIELDS if name != "at"}
    return {name: at if name == "at" else values[name] for name in FIELDS}


def _lines(notice: Notice) -> list[str]:
    return [notice.text, notice.hint] if notice.hint else [notice.text]


def _slack(lines: list[str]) -> str:
    text = "\n".join(lines)
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _card(lines: list[str]) -> object:
    """An adaptive card of plain text runs, in which nothing is read as Markdown."""
    runs = [{"type": "RichTextBlock", "inlines": [{"type": "TextRun", "text": line}]} for line in lines]
    card = {
        "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
        "type": "AdaptiveCard",
        "version": "1.4",
        "body": runs,
    }
    return {
        "type": "message",
        "attachments": [{"contentType": "application/vnd.microsoft.card.adaptive", "content": card}],
    }


def _inside_json(text: str) -> str:
    return msgspec.json.encode(text)[1:-1].decode()
