"""Files and folders that are either the old ones or the new ones, also when the process is killed in between."""

import os
import shutil
from contextlib import suppress
from pathlib import Path

import pytest

from omni.atomic import replacing_folder


def write(folder: Path, text: str) -> None:
    with replacing_folder(folder) as aside:
        (aside / "first").write_text(text)
        (aside / "second").write_text(text)


def killed(job, *, at: int) -> bool:
    """Whether a process that does `job` and is killed before its step number `at` got that far; a step is a rename, or
    the removal of a folder."""
    child = os.fork()
    if not child:
        steps = iter(range(1, at))

        def counted(real):
            return lambda *args, **given: real(*args, **given) if next(steps, None) else os._exit(9)

        Path.rename, shutil.rmtree = counted(Path.rename), counted(shutil.rmtree)
        job()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


@pytest.mark.parametrize("at", [1, 2, 3, 4])
def test_a_kill_at_any_step_loses_nothing(tmp_path, at):
    folder = tmp_path / "a [folder]"
    write(folder, "old")
    assert killed(lambda: write(folder, "new"), at=at)
    with suppress(ZeroDivisionError), replacing_folder(folder):
        _ = 1 / 0  # the next call, whatever becomes of it
    texts = {(folder / name).read_text() for name in ("first", "second")}
    assert texts == ({"old"} if at < 3 else {"new"})
    assert not list(tmp_path.glob(".*.old"))
    write(folder, "newer")
    assert (folder / "second").read_text() == "newer"
    assert not killed(lambda: write(folder, "new"), at=5)
