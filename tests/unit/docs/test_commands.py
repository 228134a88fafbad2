"""Commands in the documents are commands that work: every one parses, and those of the tour run on real programs."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click
import pytest
from muster_agent.__main__ import parser as agent_parser
from muster_cli.program import cli
from postgres import open_postgres
from unit.docs.commands import ROOT, Block, blocks, calls, documents, invocations, outside_of_fences

BIN = Path(sys.executable).parent
VERBS = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
PATIENCE = 30.0
ANY_PORTS = " ".join(f"--{name} 127.0.0.1:0" for name in ("link", "edge", "metrics"))


# --- every call parses ------------------------------------------------------------------------------------------------


def problem(words: Sequence[str]) -> str:
    """Empty, or what the program would not understand."""
    program, *rest = words
    if program == "make":
        verbs = [word for word in rest if "=" not in word and not word.startswith("-")]
        return "".join(f"make has no verb {verb}; " for verb in verbs if verb not in VERBS)
    return _agent_problem(rest) if program == "muster-agent" else _cli_problem(rest)


def _agent_problem(words: Sequence[str]) -> str:
    if not words or words[0].startswith("-"):
        return ""
    choices = next(action.choices for action in agent_parser()._actions if action.dest == "command")
    if words[0] not in choices:
        return f"muster-agent has no command {words[0]}"
    known = {flag for action in choices[words[0]]._actions for flag in action.option_strings}
    return _unknown(words[1:], known)


def _unknown(words: Sequence[str], known: set[str]) -> str:
    flags = [word.partition("=")[0] for word in words if word.startswith("-") and word != "-"]
    return "".join(f"there is no flag {flag}; " for flag in flags if flag not in known)


def _flags(command: click.Command, context: click.Context) -> set[str]:
    return {
        flag
        for parameter in command.get_params(context)
        for flag in (*parameter.opts, *parameter.secondary_opts)
    }


def _cli_problem(words: Sequence[str]) -> str:
    command: click.Command = cli
    context = click.Context(cli, info_name="muster")
    known, rest = _flags(cli, context), list(words)
    while isinstance(command, click.Group) and rest:
        word = rest.pop(0)
        if word.startswith("-"):
            if word.partition("=")[0] not in known:
                return f"there is no flag {word}"
            option = (
                next(p for p in command.params if word in p.opts)
                if word in known and "help" not in word
                else None
            )
            if isinstance(option, click.Option) and not option.is_flag and rest:
                rest.pop(0)
            continue
        if "|" in word or word.isupper():
            return ""  # a form of words in prose, like `muster get NOUN`
        found = command.get_command(context, word)
        if found is None:
            return f"there is no command {word} in `{context.command_path}`"
        command, context = found, click.Context(found, parent=context, info_name=word)
        known |= _flags(command, context)
    return _unknown(rest, known | {"-h", "--help"})


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_command_that_a_document_shows_is_one_that_the_programs_know(path: Path) -> None:
    wrong = [
        f"{where}: {' '.join(words)}: {said}"
        for where, words in invocations(path)
        if (said := problem(words))
    ]
    assert not wrong, "\n".join(wrong)
    assert not outside_of_fences(path), "commands belong into ```sh fences, where they are tested"


@pytest.mark.parametrize(
    "line",
    [
        "muster frobnicate",
        "muster get cluster-s",
        "muster get clusters --no-such",
        "muster-agent run --nothing here",
        "muster-agent walk",
        "make cake",
        "A=b muster --context x token creat",
        "cd there && muster rollout watch --loud | less",
    ],
)
def test_a_command_that_the_programs_do_not_know_is_found(line: str) -> None:
    assert any(problem(words) for words in calls(line))


def test_flags_with_values_and_shell_around_them_are_understood() -> None:
    line = "A=b muster --context x token create --cluster berlin-04 > token && make test ARGS=-x"
    found = list(calls(line))
    assert [words[0] for words in found] == ["muster", "make"]
    assert "token" not in found[0][4:]
    assert not any(problem(words) for words in found)


# --- the tour runs ------------------------------------------------------------------------------------------------------


@dataclass
class Shell:
    """Runs blocks as one person at one terminal would: folder and environment stay; servers stand beside."""

    folder: Path
    environment: dict[str, str]
    servers: list[tuple[subprocess.Popen[bytes], Path]] = field(default_factory=list)

    def run(self, block: Block) -> str:
        (self.folder / "script").write_text(
            f"cd {self.environment['PWD']!r}\n{block.text}\n"
            f"export -p > {self.folder / 'kept'}; pwd > {self.folder / 'where'}\n"
        )
        done = subprocess.run(
            ["bash", "-euo", "pipefail", str(self.folder / "script")],
            env=self.environment, input="y\n" * 5, capture_output=True, text=True, timeout=PATIENCE * 2, check=False,
        )  # fmt: skip
        logs = "\n".join(log.read_text(errors="replace")[-1500:] for _, log in self.servers)
        assert done.returncode == 0, f"{block.where}\n{block.text}\n{done.stdout}\n{done.stderr}\n{logs}"
        for name, value in re.findall(
            r'^declare -x (\w+)="([^"]*)"$', (self.folder / "kept").read_text(), re.M
        ):
            self.environment[name] = value
        self.environment["PWD"] = (self.folder / "where").read_text().strip()
        return done.stdout + done.stderr

    def serve(self, block: Block) -> str:
        """Starts the block and waits until it says that it is ready; a test's servers take any free port."""
        text = re.sub(r" --(link|edge|metrics) \S+", "", block.text)
        text = text.replace("muster serve ", f"muster serve {ANY_PORTS} ")
        log = self.folder / f"server-{len(self.servers)}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {text.strip()}"], cwd=self.environment["PWD"], env=self.environment,
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip
        self.servers.append((process, log))
        end = time.monotonic() + PATIENCE
        while block.ready not in (said := log.read_text(errors="replace")):
            assert process.poll() is None, f"{block.where} ended\n{said}"
            assert time.monotonic() < end, f"{block.where} does not say {block.ready!r}\n{said}"
            time.sleep(0.05)
        return said

    def stop(self, number: signal.Signals) -> None:
        """The first of the document's servers that runs; a server that is told to stop ends well."""
        process, log = next(found for found in self.servers[1:] if found[0].poll() is None)
        os.killpg(process.pid, number)
        assert process.wait(PATIENCE) == (0 if number == signal.SIGINT else -number), log.read_text()

    def end(self) -> None:
        for process, _ in reversed(self.servers):
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
        for process, _ in reversed(self.servers):
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(10)


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    """A person with git and our programs on PATH, and an in-memory cluster's kubeconfig."""
    (tmp_path / "home").mkdir()
    (tmp_path / "work").mkdir()
    environment = {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "HOME": str(tmp_path / "home"),
        "PWD": str(tmp_path / "work"),
        "LANG": "C.UTF-8",
        "NO_COLOR": "1",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "A Reader", "GIT_AUTHOR_EMAIL": "reader@example.com",
        "GIT_COMMITTER_NAME": "A Reader", "GIT_COMMITTER_EMAIL": "reader@example.com",
        "KUBECONFIG": str(tmp_path / "kube" / "kubeconfig"),
    }  # fmt: skip
    found = Shell(tmp_path, environment)
    try:
        found.serve(Block("", 0, f"python -m muster_lab.kube --dir {tmp_path / 'kube'}", ready="kubeconfig"))
        yield found
    finally:
        found.end()


@pytest.fixture
def database_server() -> Iterator[dict[str, str]]:
    """A person who may do everything on a PostgreSQL server, as psql wants to know it."""
    with open_postgres() as server:
        path = f"{BIN}:{server.programs}:{os.environ['PATH']}"
        yield {
            "PGHOST": "127.0.0.1",
            "PGPORT": str(server.port),
            "PGUSER": "muster",
            "PGPASSWORD": server.password,
            "PATH": path,
        }


def runnable(path: Path) -> list[Block]:
    """Blocks that no other test runs, and that are not only our make verbs: a test does not run the tests."""
    found = []
    for block in blocks(path):
        if block.run_by:
            continue
        words = [
            word for line in block.text.splitlines() for word in line.split()[:1] if not word.startswith("#")
        ]
        if any(word != "make" for word in words):
            found.append(block)
    return found


@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    "path",
    [p for p in documents() if any(not b.needs for b in runnable(p))],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_what_a_document_tells_a_reader_to_type_works(
    path: Path, shell: Shell, request: pytest.FixtureRequest
) -> None:
    if "psql" in path.read_text():
        shell.environment.update(request.getfixturevalue("database_server"))
    said = []
    for block in runnable(path):
        if block.needs:
            continue
        if block.ends:
            shell.stop(block.ends)
        said.append(shell.serve(block) if block.ready else shell.run(block))
    if path.name == "README.md" and path.parent == ROOT:
        told = "\n".join(said)
        for fact in ("hello-0001 Succeeded", "1/1 done", "Online", "kept there: v1/Namespace hello"):
            assert fact in told, told


@pytest.mark.parametrize(
    "block",
    [block for path in documents() for block in blocks(path) if block.run_by],
    ids=lambda block: block.where,
)
def test_another_test_runs_a_block_word_for_word(block: Block) -> None:
    source = (ROOT / block.run_by).read_text()
    assert [line for line in block.text.splitlines() if f'"{line}"' not in source] == []


@pytest.mark.parametrize(
    "block",
    [block for path in documents() for block in blocks(path) if block.needs],
    ids=lambda block: block.where,
)
def test_a_block_that_cannot_run_here_is_counted(block: Block) -> None:
    pytest.skip(f"{block.where} {block.needs}")
