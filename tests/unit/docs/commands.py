"""Commands as the documents show them: fenced blocks, what is said about running them, and words in backticks.

A line before a fence may say what the reader sees without words::

    <!-- test: keeps running; ready when it says "ready" -->   a server: the next blocks run beside it
    <!-- test: run by tests/e2e/test_x.py -->                  that test runs these very lines, and says what they do
    <!-- test: needs a real cluster with nodes -->             not run, and counted as NOT PROVEN with this reason
    <!-- test: after Ctrl-C of the server -->                  the first one that runs is stopped, then the fence is run
    <!-- test: after the server was killed -->                 the same, with SIGKILL

Every other ``sh`` fence of a document runs as it is, in one shell's environment, one after the other.
"""

from __future__ import annotations

import re
import shlex
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[3]
_FENCE = re.compile(
    r"^(?:<!-- test: (?P<said>[^\n]*?) -->\n)?```(?P<language>\w*)\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
_READY = re.compile(r'^keeps running; ready when it says "(?P<text>[^"]+)"$')
_ENDS = {"after Ctrl-C of the server": signal.SIGINT, "after the server was killed": signal.SIGKILL}
_RUN_BY = re.compile(r"^run by (?P<file>tests/\S+\.py)$")
_TICKS = re.compile(r"`((?:muster|muster-agent|make) [^`\n]+)`")
_PROGRAMS = {"muster", "muster-agent", "make"}


@dataclass(frozen=True, slots=True)
class Block:
    """One ``sh`` fence. ``ready`` is what a server says when it serves; ``run_by`` is the test that runs its lines; ``needs``
    is why it is not run at all; ``ends`` is the signal that a server gets before.
    """

    file: str
    line: int
    text: str
    ready: str = ""
    run_by: str = ""
    needs: str = ""
    ends: signal.Signals | None = None

    @property
    def where(self) -> str:
        return f"{self.file}:{self.line}"


def documents() -> list[Path]:
    named = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "deploy/README.md")]
    return [*(path for path in named if path.exists()), *sorted((ROOT / "docs").glob("*.md"))]


def blocks(path: Path) -> list[Block]:
    """The fences of a document that hold commands."""
    text = path.read_text()
    found = []
    for match in _FENCE.finditer(text):
        if match["language"] not in {"sh", "bash", "console"}:
            continue
        said = match["said"] or ""
        server, elsewhere, ends = _READY.match(said), _RUN_BY.match(said), _ENDS.get(said)
        found.append(
            Block(
                str(path.relative_to(ROOT)),
                text.count("\n", 0, match.start("text")) + 1,
                match["text"],
                ready=server["text"] if server else "",
                run_by=elsewhere["file"] if elsewhere else "",
                needs="" if server or elsewhere or ends else said,
                ends=ends,
            )
        )
    return found


def outside_of_fences(path: Path) -> list[str]:
    """Indented lines that begin with one of our programs: they would escape the test."""
    text = _FENCE.sub("", path.read_text())
    return [
        line.strip()
        for line in text.splitlines()
        if re.match(r"(?:    |\t)(muster|muster-agent|make) ", line)
    ]


def invocations(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Where, and the words of each call of one of our programs, in fences and in backticks."""
    text = path.read_text()
    for block in blocks(path):
        for number, line in enumerate(_joined(block.text)):
            for words in calls(line):
                yield f"{block.file}:{block.line + number}", words
    name = str(path.relative_to(ROOT))
    prose = _FENCE.sub(lambda match: "\n" * match[0].count("\n"), text)
    for match in _TICKS.finditer(prose):
        for words in calls(match[1]):
            yield f"{name}:{prose.count(chr(10), 0, match.start()) + 1}", words


def _joined(text: str) -> list[str]:
    return text.replace("\\\n", " ").splitlines()


def calls(line: str) -> Iterator[list[str]]:
    """The words of each of our programs' calls within a shell line, without redirections."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>()")
    lexer.whitespace_split = True
    words: list[str] = []
    skip = False
    for word in [*lexer, ";"]:
        if set(word) <= set("<>"):
            skip = True
        elif set(word) <= set("|&;()"):
            while words and re.match(r"[A-Z_]+=", words[0]):
                words = words[1:]
            if words and words[0] in _PROGRAMS:
                yield words
            words = []
        elif skip:
            skip = False
        else:
            words.append(word)
