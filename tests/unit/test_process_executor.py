"""The process executor: what a job cannot reach, and how its end is seen."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from config.settings import Job
from dicom_node.executors import process
from dicom_node.executors.process import Isolation

LIMITS = Job()


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    return tmp_path / "in", tmp_path / "out"


def gone(pid: int) -> bool:
    """Wait for a killed process to leave; a zombie that nobody reaps counts as gone."""
    for _ in range(200):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.05)
    return False


def run_code(
    monkeypatch: pytest.MonkeyPatch, folders: tuple[Path, Path], code: str, limits: Job = LIMITS
) -> int | None:
    """Run a hostile job: the real chain of limits, with other Python code at its end."""
    real = process.command

    def command(*arguments: object) -> list[str]:
        argv = real(*arguments)  # type: ignore[arg-type]
        return [*argv[: argv.index("-m")], "-c", code]

    monkeypatch.setattr(process, "command", command)
    return process.run(*folders, limits, process.probe()).exit_code


def test_the_command_passes_only_the_two_folders(folders: tuple[Path, Path]) -> None:
    argv = process.command(*folders, LIMITS, Isolation(("--net",), "x"))
    assert argv[argv.index(sys.executable) :] == [sys.executable, "-P", "-m", "analysis.run", *map(str, folders)]
    assert argv.index("unshare") < argv.index("setpriv") < argv.index(sys.executable)


def test_the_job_sees_nothing_of_the_node_s_environment(
    monkeypatch: pytest.MonkeyPatch, folders: tuple[Path, Path]
) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "s3cr3t")
    assert run_code(monkeypatch, folders, "import os; print(sorted(os.environ)); print(os.environ)") == 0
    log = (folders[1] / process.LOG_FILE).read_text()
    assert "SECRET" not in log
    assert "s3cr3t" not in log


def test_the_job_has_no_network(monkeypatch: pytest.MonkeyPatch, folders: tuple[Path, Path]) -> None:
    if not process.probe().namespace:
        pytest.skip("this kernel or container allows no network namespace")
    listener = __import__("socket").create_server(("127.0.0.1", 0))
    port = listener.getsockname()[1]
    code = f"import socket; socket.create_connection(('127.0.0.1', {port}), 2)"
    assert run_code(monkeypatch, folders, code) == 1
    assert "unreachable" in (folders[1] / process.LOG_FILE).read_text()
    listener.close()


def test_a_job_that_wants_too_much_memory_gets_an_error(
    monkeypatch: pytest.MonkeyPatch, folders: tuple[Path, Path]
) -> None:
    limits = replace(LIMITS, memory_bytes=300_000_000)
    assert run_code(monkeypatch, folders, "x = bytearray(600_000_000)", limits) == 1
    assert "MemoryError" in (folders[1] / process.LOG_FILE).read_text()


def test_a_job_that_fills_the_disk_is_stopped_at_its_limit(
    monkeypatch: pytest.MonkeyPatch, folders: tuple[Path, Path]
) -> None:
    code = "f = open('big', 'wb')\nwhile True: f.write(b'x' * 1_000_000)"
    assert run_code(monkeypatch, folders, code, replace(LIMITS, output_bytes=5_000_000)) not in (0, None)
    assert (folders[1] / "big").stat().st_size <= 5_000_000


def test_a_job_past_its_wall_clock_is_killed_with_its_children(
    monkeypatch: pytest.MonkeyPatch, folders: tuple[Path, Path]
) -> None:
    code = (
        "import signal, subprocess, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen(['sleep', '300']); open('pid', 'w').write(str(child.pid)); time.sleep(300)"
    )
    start = time.monotonic()
    assert run_code(monkeypatch, folders, code, replace(LIMITS, wall_clock_seconds=2.0)) is None
    assert time.monotonic() - start < 30
    pid = int((folders[1] / "pid").read_text())
    assert gone(pid)


def test_a_job_dies_with_its_worker(folders: tuple[Path, Path]) -> None:
    code = (
        "from pathlib import Path\nfrom config.settings import Job\nfrom dicom_node.executors import process\n"
        "real = process.command\n"
        "process.command = lambda *a: [*real(*a)[:real(*a).index('-m')], '-c', "
        '\'import os, time; open("pid", "w").write(str(os.getpid())); time.sleep(300)\']\n'
        f"process.run(Path({str(folders[0])!r}), Path({str(folders[1])!r}), Job(), process.probe())\n"
    )
    worker = subprocess.Popen([sys.executable, "-c", code])
    written = folders[1] / "pid"
    deadline = time.monotonic() + 20
    while not (written.exists() and written.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    pid = int(written.read_text())
    os.kill(worker.pid, signal.SIGKILL)
    worker.wait()
    assert gone(pid)
