"""Structured logs on standard error: JSON for machines, plain for people at a terminal."""

from __future__ import annotations

import logging
import sys
from typing import Literal

import structlog

Style = Literal["auto", "json", "text"]


def configure(style: Style, *, debug: bool = False) -> None:
    """``auto`` is text where standard error is a terminal. What only developers ask for is left out unless ``debug``."""
    people = style == "text" or (style == "auto" and sys.stderr.isatty())
    rendering: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]  # it formats exceptions itself
        if people
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *rendering,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG if debug else logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
