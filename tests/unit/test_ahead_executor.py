"""A job's process that was started before there was a job."""

import os
import signal
import subprocess
import sys
import threading
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
from dicom_node.executors.contract import NotStarted
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
JOB_OF_ITS_OWN = JOB


@pytest.fixture
def ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AheadExecutor:
    command = process.command

    def of_test(*arguments: Any) -> list[str]:
        argv = command(*arguments)
        return [*argv[: argv.index("-m")], "-c", JOB]

    monkeypatch.setattr(process, "command", of_test)
    monkeypatch.setattr("dicom_node.executors.ahead.PATIENCE_SECONDS", 60.0)  # this machine may be slow
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


@pytest.mark.parametrize("gone", ["in", "out"])
def test_one_whose_folders_somebody_has_removed_is_replaced(gone: str, ahead: AheadExecutor, tmp_path: Path) -> None:
    ahead.get_ready()
    waiting = ahead._next
    assert waiting is not None
    (waiting[1] / gone).rmdir()
    folder = tmp_path / "jobs" / "one"
    assert ahead.run(*laid_out(folder), "key").exit_code == 0
    assert (folder / "out" / "result.json").read_text().startswith("['ct'] ''")
    assert waiting[0].child.poll() is not None
    assert [path.name for path in (tmp_path / "jobs").iterdir()] == ["one"]


def test_where_no_thread_can_begin_a_node_does_not_begin_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none_left)
    with pytest.raises(NotStarted, match="no thread"):
        AheadExecutor(Job(), tmp_path)


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
    executor = SimpleNamespace(
        slots=1, text="", missing=(), get_ready=lambda: asked.append("ready"), stand_down=lambda: asked.append("down")
    )
    now = SimpleNamespace(at=1000.0)
    analyst, loop, look = analyst_of(executor, tmp_path, lambda: now.at)

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


def analyst_of(
    executor: Any, folder: Path, clock: Callable[[], float] = time.time
) -> tuple[Analyst, Loop, Callable[[], bool]]:
    """An analyst with that executor, its loop, and its look at what arrives."""
    spool = Spool(folder / "spool")
    spool.create()
    loop = Loop(Settings(), spool, clock)
    runner = SimpleNamespace(executor=executor, ahead=executor)
    analyst = Analyst(Settings(), spool, Bundles(load(DEMO)), cast(Runner, runner), loop)
    return analyst, loop, next(stage.step for stage in analyst.stages if stage.name == "ready")


def test_a_look_while_a_job_lays_out_its_inputs_leaves_it_the_process_that_was_started_for_it(
    ahead: AheadExecutor, tmp_path: Path
) -> None:
    analyst, loop, look = analyst_of(ahead, tmp_path)
    look()
    arrive(loop)
    look()
    waiting = ahead._next
    assert waiting is not None
    analyst._begin()
    folders = laid_out(tmp_path / "jobs" / "one")
    look()
    assert ahead._next is waiting
    assert ahead.run(*folders, "key").exit_code == 0
    analyst._end()
    look()
    assert (folders[1] / "result.json").read_text().startswith("[] 'go")  # it is that one that ran
    assert ahead._next is None


@pytest.mark.parametrize("job", [
    "import time; time.sleep(600)",
    "import time; print('read', end='', flush=True); time.sleep(600)",
    "while True: print('said', flush=True)",
], ids=["silent", "part of the word", "other words without end"])  # fmt: skip
def test_one_that_never_says_that_it_is_there_is_replaced(
    job: str, ahead: AheadExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "JOB", job)
    ahead.get_ready()
    monkeypatch.setitem(globals(), "JOB", JOB_OF_ITS_OWN)
    monkeypatch.setattr("dicom_node.executors.ahead.PATIENCE_SECONDS", 0.2)
    waiting = ahead._next
    assert waiting is not None
    assert ahead.run(*laid_out(tmp_path / "jobs" / "one"), "key").exit_code == 0
    assert waiting[0].child.poll() is not None
    assert [path.name for path in (tmp_path / "jobs").iterdir()] == ["one"]


def test_one_that_warns_before_it_says_that_it_is_there_is_taken(
    ahead: AheadExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "JOB", "print('a warning' * 9000, end='', flush=True)" + JOB_OF_ITS_OWN)
    ahead.get_ready()
    assert ahead.run(*laid_out(tmp_path / "jobs" / "one"), "key").exit_code == 0
    assert (tmp_path / "jobs" / "one" / "out" / "result.json").read_text().startswith("[] 'go")


def test_one_whose_folders_cannot_be_handed_over_is_ended(ahead: AheadExecutor, tmp_path: Path) -> None:
    ahead.get_ready()
    waiting = ahead._next
    assert waiting is not None
    with pytest.raises(FileNotFoundError):
        ahead.run(tmp_path / "jobs" / "gone" / "in", tmp_path / "jobs" / "gone" / "out", "key")
    assert waiting[0].child.poll() is not None
    assert list((tmp_path / "jobs").iterdir()) == []


def test_where_no_thread_is_left_a_job_is_not_started_and_nothing_of_it_is_left(
    ahead: AheadExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    children: list[subprocess.Popen[bytes]] = []
    begin = process._start

    def start(*arguments: Any) -> subprocess.Popen[bytes]:
        children.append(begin(*arguments))
        return children[-1]

    def none_left(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(process, "_start", start)
    ahead.get_ready()
    monkeypatch.setattr(threading.Thread, "start", none_left)
    descriptors = len(os.listdir("/proc/self/fd"))
    for name in ("one", "two"):  # the one that was started ahead, and another
        with pytest.raises(NotStarted, match="no thread"):
            ahead.run(*laid_out(tmp_path / "jobs" / name), "key")
    with pytest.raises(NotStarted, match="no thread"):
        ahead.ask("analysis.golden", DEMO, 60.0)
    assert [child.poll() is not None for child in children] == [True] * 3
    assert len(os.listdir("/proc/self/fd")) < descriptors  # the pipes and the filter of the first


def test_a_start_ahead_that_does_not_work_is_said_once_and_not_tried_all_the_time(
    ahead: AheadExecutor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried: list[float] = []

    def start(*_: object) -> None:
        tried.append(time.monotonic())
        raise NotStarted("nice: no memory")

    monkeypatch.setattr("dicom_node.executors.ahead.start", start)
    ahead.get_ready()
    ahead.get_ready()
    assert len(tried) == 1
    ahead._again = 0.0  # a minute later
    ahead.get_ready()
    assert len(tried) == 2
    assert [line.getMessage() for line in caplog.records if "job.not_ahead" in line.getMessage()] == [
        "job.not_ahead jobs start only when their images are there, and later: nice: no memory"
    ]


def test_what_can_start_nothing_ahead_is_not_asked_to(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.create()
    runner = SimpleNamespace(executor=SimpleNamespace(slots=1, text="", missing=()), ahead=None)
    analyst = Analyst(Settings(), spool, Bundles(load(DEMO)), cast(Runner, runner), Loop(Settings(), spool))
    assert "ready" not in [stage.name for stage in analyst.stages]
    analyst.close()


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
