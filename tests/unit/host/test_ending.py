"""A program that ends by errors of ours says each in one line, however deep in task groups it was."""

from __future__ import annotations

import anyio
import pytest
from muster_core.errors import LinkError, ValidationError
from muster_host import ending


async def fails(error: Exception) -> None:
    async with anyio.create_task_group() as outer, anyio.create_task_group() as inner:
        outer.start_soon(raising, error)
        inner.start_soon(raising, error)


async def raising(error: Exception) -> None:
    raise error


@pytest.mark.parametrize(
    ("error", "code"),
    [(LinkError("L052", "the session is gone"), 1), (ValidationError("V009", "no such file"), 2)],
)
def test_errors_within_groups_are_one_line_and_an_exit_code(
    error: Exception, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ending.run(fails, error) == code
    assert capsys.readouterr().err == f"{error}\n"


def test_an_error_that_is_not_ours_keeps_its_traceback() -> None:
    with pytest.raises(ExceptionGroup):
        ending.run(fails, KeyError("x"))
