"""A job's process that was started before there was a job."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from config.settings import Job, Settings
from dicom_node.analyst import EXPECTED_SECONDS, Analyst
from dicom_node.bundles import Bundles
from dicom_node.executors import process
from dicom_node.executors.ahead import PREFIX, AheadExecutor
from dicom_node.job import Runner
from dicom_node.loop import Loop
from dicom_node.spool import Spool
from dicom_node.workitem import StoreBusy
from models.bundle import DEMO, load

# What a job would do: wait for the word, read its input, try to change it, and leave what it has seen.
JOB = """
import os, pathlib, sys
here = pathlib.Path.cwd()
into, out = here.parent / "in", here
before = sorted(path.name for path in into.iterdir())
print("ready", flush=True)
line = sys.stdin.readline()
seen = (into / "ct" / "1").read_text()
try:
    (into / "ct" / "1").write_text("changed")
except OSError as error:
    seen += " " + str(error.errno)
(out / "result.json").write_text(f"{before} {line!r} {seen}")
print("said")
"""


@pytest.fixture
def ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AheadExecutor:
    command = process.command

    def of_test(*arguments: Any) -> list[str]:
        argv = command(*arguments)
        return [*argv[: argv.index("-m")], "-c", JOB]

    monkeypatch.setattr(process, "command", of_test)
    (tmp_path / "jobs").mkdir()
    made = AheadExecutor(Job(), tmp_path / "jobs")
    if not made.isolation.bubblewrap:
        pytest.skip("bubblewrap is not to be had here")
    return made


def laid_out(folder: Path) -> tuple[Path, Path]:
    for name in ("in/ct", "out"):
        (folder / name).mkdir(parents=True)
    (folder / "in" / "ct" / "1").write_text("as it came")
    return folder / "in", folder / "out"


def test_a_job_started_ahead_sees_what_it_is_given_later_and_cannot_change_it(
    ahead: AheadExecutor, tmp_path: Path
) -> None:
    ahead.get_ready()
    ahead.get_ready()  # one at most
    assert len(list((tmp_path / "jobs").glob(f"{PREFIX}*"))) == 1
    folder = tmp_path / "jobs" / "one"
    ended = ahead.run(*laid_out(folder), "key")
    assert (ended.exit_code, ended.broke) == (0, "")
    assert (folder / "out" / "result.json").read_text() == "[] 'go\\n' as it came 30"  # EROFS
    assert (folder / "in" / "ct" / "1").read_text() == "as it came"
    assert (folder / process.LOG_FILE).read_text() == "said\n"
    assert [path.name for path in (tmp_path / "jobs").iterdir()] == ["one"]


def test_one_that_was_killed_while_it_waited_is_replaced(ahead: AheadExecutor, tmp_path: Path) -> None:
    ahead.get_ready()
    waiting = ahead._next
    assert waiting is not None
    os.killpg(waiting[0].child.pid, signal.SIGKILL)
    waiting[0].child.wait()
    folder = tmp_path / "jobs" / "one"
    assert ahead.run(*laid_out(folder), "key").exit_code == 0
    assert (folder / "out" / "result.json").read_text().startswith("['ct'] ''")
    assert [path.name for path in (tmp_path / "jobs").iterdir()] == ["one"]


def test_nothing_is_left_of_one_that_no_job_came_for(ahead: AheadExecutor, tmp_path: Path) -> None:
    ahead.get_ready()
    waiting = ahead._next
    assert waiting is not None
    ahead.stand_down()
    assert waiting[0].child.poll() is not None
    assert list((tmp_path / "jobs").iterdir()) == []
    (tmp_path / "jobs" / f"{PREFIX}of-a-runner-that-was-killed" / "in").mkdir(parents=True)
    ahead.sweep()
    assert list((tmp_path / "jobs").iterdir()) == []


def test_the_job_itself_does_nothing_before_it_is_told(tmp_path: Path) -> None:
    folders = [tmp_path / "in", tmp_path / "out"]
    for folder in folders:
        folder.mkdir()
    command = [sys.executable, "-P", "-m", "analysis.run", *map(str, folders), "later"]
    for told, status in (("", 0), ("go\n", 66)):  # nobody there any more; told, and EX_NOINPUT
        done = process.subprocess.run(command, input=told, capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stderr


def test_a_job_is_awaited_from_an_arrival_until_it_comes_or_a_minute_has_passed(tmp_path: Path) -> None:
    asked: list[str] = []
    executor = SimpleNamespace(slots=1, text="", missing=())
    runner = SimpleNamespace(
        executor=executor, get_ready=lambda: asked.append("ready"), stand_down=lambda: asked.append("down")
    )
    spool, now = Spool(tmp_path), SimpleNamespace(at=1000.0)
    spool.create()
    loop = Loop(Settings(), spool, lambda: now.at)
    analyst = Analyst(Settings(), spool, Bundles(load(DEMO)), cast(Runner, runner), loop)
    look = cast(Callable[[], bool], next(stage.step for stage in analyst.stages if stage.name == "ready"))

    def said() -> str:
        asked.clear()
        assert not look()
        return " ".join(asked)

    assert [said(), said()] == ["down", "down"]
    arrive(loop)
    assert said() == "ready"
    now.at += EXPECTED_SECONDS - 1
    assert said() == "ready"
    now.at += 2
    assert said() == "down"
    arrive(loop)
    assert said() == "ready"
    analyst._begin()
    assert said() == ""  # the job takes what is ready when its inputs are laid out
    arrive(loop)
    assert said() == ""  # a job is at work: it has the processor
    analyst._end()
    assert said() == "ready"
    analyst._begin()
    analyst._end()
    assert said() == "down"  # the job that the arrivals have promised has come
    now.at = time.time()
    assert said() == "down"
    arrive(loop)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(loop.store.arrivals), "newest", busy)
        with pytest.raises(StoreBusy):
            analyst._begin()
    assert said() == "ready"  # that one has not begun


def busy(_: object) -> int:
    raise StoreBusy("busy")


def arrive(loop: Loop) -> None:
    """An instance, as far as the analyst looks at it."""
    number = loop.store.arrivals.newest() + 1
    loop.store.arrivals._db.execute(
        "INSERT INTO instance (sop_instance_uid, digest, sop_class_uid, series_instance_uid, study_instance_uid,"
        " frame_of_reference_uid, header, calling_ae_title, received_at, own, planned)"
        " VALUES (?, '', '', '', '', '', '{}', '', 0, 0, 1)",
        [str(number)],
    )
