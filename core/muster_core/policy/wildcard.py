"""``*`` and ``?`` in names and values, without regular expressions that can run away.

Owns the one matcher of wildcards, and its compiled form. ``*`` is any text, ``?`` exactly one character. It never escapes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial


def has_wildcard(text: str) -> bool:
    return "*" in text or "?" in text


def matches(pattern: str, text: str) -> bool:
    """Whether the whole text matches; at worst the product of both lengths, never exponential."""
    p = t = 0
    star, mark = -1, 0
    while t < len(text):
        if p < len(pattern) and pattern[p] != "*" and pattern[p] in ("?", text[t]):
            p, t = p + 1, t + 1
        elif p < len(pattern) and pattern[p] == "*":
            star, mark, p = p, t, p + 1
        elif star >= 0:
            p, mark = star + 1, mark + 1
            t = mark
        else:
            return False
    return all(char == "*" for char in pattern[p:])


def compiled(pattern: str) -> Callable[[str], bool]:
    """The same question, with the common shapes answered without walking the text."""
    if not has_wildcard(pattern):
        return pattern.__eq__
    if pattern == "*":
        return lambda text: True
    if pattern in ("?*", "*?"):
        return lambda text: text != ""
    body = pattern.strip("*")
    if body and not has_wildcard(body):
        first, last = pattern[0] == "*", pattern[-1] == "*"
        if first and last:
            return lambda text: body in text
        return (lambda text: text.endswith(body)) if first else (lambda text: text.startswith(body))
    return partial(matches, pattern)


def any_of(patterns: list[str]) -> Callable[[str], bool]:
    """Whether one of the patterns matches the whole text."""
    exact = frozenset(pattern for pattern in patterns if not has_wildcard(pattern))
    wild = [compiled(pattern) for pattern in patterns if has_wildcard(pattern)]
    if not wild:
        return exact.__contains__
    return lambda text: text in exact or any(test(text) for test in wild)
