"""Hostile jobs: what runs where the analysis runs reaches nothing, outlives nothing, and is believed nothing."""

import hashlib
import re
import secrets
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from analysis.contract import RESULT_FILE
from config.settings import Job
from dicom_node.executors import process, sandbox
from dicom_node.job import Runner
from dicom_node.spool import Spool
from dicom_node.workitem import Permanent, State
from models.bundle import DEMO, load
from tests import hostile
from tests.hostile import Way, kept, log_of
from tests.kept import delivered
from tests.road import Road, road
from tests.synthetic import ct_series, rtstruct

STUDY = ct_series(8, 32, 32, seed=41)
EXHAUSTIVE = pytest.mark.exhaustive


# Each tool and each user once; all four ways are the long form.
OFTEN = ("bwrap-nobody", "unshare-root") if len(hostile.ways()) == 4 else tuple(way.name for way in hostile.ways())
WAYS = [pytest.param(way, id=way.name, marks=[] if way.name in OFTEN else EXHAUSTIVE) for way in hostile.ways()]


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Way:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def folder(tmp_path: Path, way: Way) -> Iterator[Path]:
    with hostile.job_folder(tmp_path, way) as made:
        yield made


def in_force(way: Way, promise: str) -> bool:
    return promise in kept(way)["in_force"]


# -- what it reaches ---------------------------------------------------------------------------------------------


def test_a_job_that_opens_a_socket_reaches_nobody(folder: Path, way: Way) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(socket.AF_UNIX) as abstract:
        name = f"\0prognode-{secrets.token_hex(4)}"
        abstract.bind(name)
        abstract.listen()
        port = listener.getsockname()[1]
        code = (
            "import socket\n"
            "def tried(kind, *where):\n"
            "    try:\n"
            "        with socket.socket(kind) as s: s.settimeout(2); s.connect(*where)\n"
            "    except OSError as error: return f'no ({error.strerror})'\n"
            "    return 'REACHED'\n"
            f"print(tried(socket.AF_INET, ('127.0.0.1', {port})))\n"
            "print(tried(socket.AF_INET, ('192.0.2.1', 104)))\n"
            f"print(tried(socket.AF_UNIX, {name!r}))\n"
            "print(tried(socket.AF_VSOCK, (2, 22)))\n"
            "print(tried(socket.AF_NETLINK, (0, 0)) if False else 'no')"
        )
        assert way.run(folder, code)["exit_code"] == 0
        said = log_of(folder).splitlines()
        listener.settimeout(0.1)
        with pytest.raises(TimeoutError):
            listener.accept()
    assert len(said) == 5
    assert all(line.startswith("no") for line in said), said
    if in_force(way, sandbox.SYSTEM_CALLS):
        assert said[0] == said[3] == "no (Operation not permitted)"  # refused by name, not for want of a route


def test_a_job_that_reads_another_study_or_the_store_finds_nothing(folder: Path, way: Way) -> None:
    if not in_force(way, sandbox.NOTHING_ELSE):
        pytest.skip("other files are unseen with bubblewrap alone, and it is said so")
    spool = folder.parent.parent
    for name in ("instances/ab/other.dcm", "jobs/two/in/ct/00001.dcm", "store.sqlite", "prognode.toml"):
        (spool / name).parent.mkdir(parents=True, exist_ok=True)
        (spool / name).write_text("PATIENT")
        (spool / name).chmod(0o644)
    code = (
        "import os\nfound = []\n"
        "for top, folders, files in os.walk('/'):\n"
        "    folders[:] = [f for f in folders if os.path.join(top, f) not in ('/proc', '/sys', '/usr', '/dev')]\n"
        "    found += [os.path.join(top, f) for f in files if f in ('other.dcm', '00001.dcm', 'store.sqlite')]\n"
        "print(len(found))\n"
        f"for path in ('{spool}/instances/ab/other.dcm', '../../two/in/ct/00001.dcm', '/etc/shadow'):\n"
        "    try: os.stat(path); print('SEEN', path)\n"
        "    except OSError: pass"
    )
    assert way.run(folder, code)["exit_code"] == 0
    assert log_of(folder).split() == ["0"]


def test_a_job_that_changes_its_inputs_cannot_or_is_not_believed(folder: Path, way: Way) -> None:
    code = (
        "import os\npath = '../in/input.dcm'\n"
        "try: os.chmod(path, 0o666)\nexcept OSError: pass\n"
        "for step in (lambda: open(path, 'ab').write(b'!'), lambda: os.unlink(path), lambda: os.rename(path, 'mine'),\n"
        "             lambda: os.link(path, 'mine'), lambda: open('../in/new', 'w')):\n"
        "    try: step(); print('DONE')\n"
        "    except OSError as error: print(error.strerror)"
    )
    ended = way.run(folder, code)
    if in_force(way, sandbox.INPUTS):
        assert ended == {"exit_code": 0, "broke": ""}
        assert "DONE" not in log_of(folder)
        assert (folder / "in" / "input.dcm").read_bytes() == b"as it was sent"
    else:
        assert ended["broke"] == "changed its inputs"


def test_a_job_that_wants_out_is_refused_by_the_kernel(folder: Path, way: Way) -> None:
    code = (
        "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"
        "def call(name, *arguments):\n"
        "    done = getattr(libc, name)(*arguments)\n"
        "    print(name, 'DONE' if done == 0 else 'refused')\n"
        "os.mkdir('mine')\n"  # never a folder of the machine's: what is tried here may come off
        "call('mount', b'none', b'mine', b'tmpfs', 0, None)\n"
        "call('chroot', b'/')\n"
        "call('setuid', 0) if os.getuid() else print('setuid refused')\n"
        "call('ptrace', 0, 0, 0, 0)\n"
        "call('mknod', b'device', 0o60600, os.makedev(254, 0))\n"
        "for path in ('/proc/sys/kernel/core_pattern', '/proc/sysrq-trigger', '/sys/kernel/mm/ksm/run'):\n"
        "    try: os.open(path, os.O_WRONLY); print(path, 'OPEN')\n"
        "    except OSError: print(path, 'refused')\n"
        "call('unshare', 0x10000000)"  # last: in a user namespace of its own, much is allowed that reaches nothing
    )
    assert way.run(folder, code)["exit_code"] == 0
    done = [line for line in log_of(folder).splitlines() if not line.endswith("refused")]
    if in_force(way, sandbox.SYSTEM_CALLS):
        assert done == []
    if in_force(way, sandbox.PRIVILEGES):
        assert [line for line in done if not line.startswith(("unshare", "ptrace"))] == []


# -- what it takes -----------------------------------------------------------------------------------------------


def test_a_job_that_forks_without_end_is_held_and_ends_with_all_its_children(folder: Path, way: Way) -> None:
    if not in_force(way, sandbox.PROCESSES):
        pytest.skip("nothing holds it here, and it is said so")
    token = secrets.token_hex(8)
    code = (
        f"import os, time # {token}\nmade = 0\n"
        "try:\n"
        "    while made < 2000:\n"  # so that a broken limit breaks this test and not the machine
        "        if os.fork() == 0: time.sleep(120); os._exit(0)\n"
        "        made += 1\n"
        "except OSError: pass\n"
        "print(made, flush=True)"
    )
    way.run(folder, code)
    assert 1 <= int(log_of(folder)) <= sandbox.MAXIMUM_PROCESSES
    assert hostile.gone(token)


@pytest.mark.parametrize(
    "code",
    [
        "f = open('big', 'wb')\nwhile True: f.write(b'x' * 1_000_000)",
        "for k in range(10 ** 6): open(f'{k}', 'wb').write(b'x' * 1_000_000)",
        "for k in range(10 ** 6): open(f'{k}', 'wb').close()",
        "import os\nfor k in range(10 ** 6): os.mkdir('d'); os.chdir('d'); open('f', 'wb').write(b'x' * 1_000_000)",
    ],
    ids=["one file", "many files", "many empty files", "ever deeper"],
)
def test_a_job_that_fills_the_disk_is_stopped(folder: Path, way: Way, code: str) -> None:
    most = 20_000_000
    ended = way.run(folder, code, output_bytes=most, wall_clock_seconds=100.0)
    assert ended["exit_code"] != 0
    assert ended["broke"].startswith("wrote more than") or (ended["exit_code"] or 0) > 0
    process.remove(folder)
    assert not folder.exists()


def test_a_job_cannot_fill_memory_through_a_file_system(folder: Path, way: Way) -> None:
    if way.tool != "bwrap":
        pytest.skip("the machine's own /tmp and /dev/shm are there without bubblewrap")
    code = (
        "import os\n"
        "for where in ('/', '/tmp', '/dev', '/dev/shm', '/run', '/root', '/proc', '/etc'):\n"
        "    try: open(os.path.join(where, 'x'), 'w'); print(where, 'WRITTEN')\n"
        "    except OSError: pass"
    )
    assert way.run(folder, code)["exit_code"] == 0
    assert log_of(folder) == ""


def test_a_job_whose_children_take_too_much_memory_together_is_killed(folder: Path, way: Way) -> None:
    if kept(way)["in_force"][sandbox.MEMORY] != "cgroup":
        pytest.skip("memory is limited for each process alone here, and it is said so")
    code = (
        "import os, time\n"
        "for _ in range(8):\n"
        "    if os.fork() == 0:\n"
        "        held = bytearray(100_000_000)\n"
        "        for k in range(0, len(held), 4096): held[k] = 1\n"
        "        time.sleep(120); os._exit(0)\n"
        "killed, end = 0, time.monotonic() + 60\n"
        "while killed < 5 and time.monotonic() < end:\n"
        "    killed += os.waitpid(-1, os.WNOHANG)[0] > 0\n"
        "    time.sleep(0.01)\n"
        "print('KILLED', killed)"
    )
    way.run(folder, code, memory_bytes=300_000_000, wall_clock_seconds=100.0)
    killed = [int(line.split()[1]) for line in log_of(folder).splitlines() if line.startswith("KILLED")]
    assert all(count >= 5 for count in killed)  # 300 MB hold two or three of them; none said: the job itself was killed


def test_a_job_that_prints_without_end_keeps_the_beginning_and_the_end_of_it(folder: Path, way: Way) -> None:
    code = (
        "import sys\nprint('the beginning')\n"
        "for _ in range(200): sys.stdout.write('x' * 1_000_000)\n"
        "print('\\nthe end')"
    )
    assert way.run(folder, code, wall_clock_seconds=100.0)["exit_code"] == 0
    log = log_of(folder)
    assert log.startswith("the beginning")
    assert log.endswith("the end\n")
    assert "bytes are left out here" in log
    assert len(log) < 2_000_000


def test_a_daemon_that_a_job_leaves_behind_ends_with_it(folder: Path, way: Way) -> None:
    token = secrets.token_hex(8)
    code = (
        f"import os, time # {token}\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        "        while True: open('beat', 'a').write('x'); time.sleep(0.02)\n"
        "    os._exit(0)\n"
        "os.wait()\n"
        "while not os.path.exists('beat'): time.sleep(0.01)"
    )
    assert way.run(folder, code) == {"exit_code": 0, "broke": ""}
    assert hostile.gone(token)
    assert (folder / "out" / "beat").stat().st_size > 0


# -- what it is believed -----------------------------------------------------------------------------------------


IMPATIENT = replace(Job(), attempts=1, wall_clock_seconds=100.0)


@pytest.fixture
def made(tmp_path: Path) -> Road:
    return road(tmp_path, job=IMPATIENT)


@pytest.fixture
def scored(tmp_path: Path) -> Road:
    """One study is scored and delivered already."""
    found = delivered(tmp_path)
    found.restart(settings=replace(found.settings, job=IMPATIENT))
    return found


def instead(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Run `code` where the analysis would run; it finds the key of its work item in `key`."""
    real = process.command
    key = "import json, os; key = json.load(open('../in/job.json'))['key']\n"

    def command(*arguments: Any) -> list[str]:
        argv = real(*arguments)
        return [*argv[: argv.index("-m")], "-c", key + code]

    monkeypatch.setattr(process, "command", command)


def digests(spool: Spool) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in spool.root.glob("instances/*/*.dcm")}


NOT_BELIEVED = {
    "no result": ("pass", "is not valid"),
    "a torn result": (f"open('{RESULT_FILE}', 'w').write('{{\"schema_version\": 1, \"key\": \"')", "is not valid"),
    "a result that is no JSON": (f"open('{RESULT_FILE}', 'wb').write(os.urandom(5000))", "is not valid"),
    "a result without end": (
        f"f = open('{RESULT_FILE}', 'wb'); f.truncate(900_000_000)", f"{RESULT_FILE} has 900000000 bytes",
    ),
    "a symbolic link": (f"os.symlink('/etc/passwd', '{RESULT_FILE}')", f"{RESULT_FILE} is no plain file"),
    "a link into the inputs": (f"os.symlink('../in/job.json', '{RESULT_FILE}')", f"{RESULT_FILE} is no plain file"),
    "a pipe": (f"os.mkfifo('{RESULT_FILE}')", f"{RESULT_FILE} is no plain file|status 1"),
    "a socket": (
        f"import socket; socket.socket(socket.AF_UNIX).bind('{RESULT_FILE}')", f"{RESULT_FILE} is no plain file",
    ),
    "a folder": (f"os.mkdir('{RESULT_FILE}')", f"{RESULT_FILE} is no plain file"),
    "JSON nested without end": (f"open('{RESULT_FILE}', 'w').write('[' * 1_000_000)", "is not valid"),
}  # fmt: skip


@pytest.mark.parametrize("name", NOT_BELIEVED)
def test_a_result_that_is_none_fails_the_work_item_and_nothing_else(
    made: Road, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    code, said = NOT_BELIEVED[name]
    instead(monkeypatch, code)
    made.take(*STUDY, rtstruct(STUDY))
    before = digests(made.spool)
    made.work()
    (item,) = made.items
    assert item.state == State.FAILED
    assert re.search(said, caplog.text)
    assert digests(made.spool) == before
    assert not list(made.spool.root.glob("results/*/analysis"))
    if name != "a torn result":
        return
    monkeypatch.undo()  # the honest analysis finds all as it was
    assert made.store.retry(item.id, made.clock())
    made.work()
    assert made.items[0].state in (State.REPORTED, State.COMPLETED)


def test_a_result_for_another_work_item_is_not_taken(
    scored: Road, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (good,) = scored.items
    result = scored.spool.results(good.key or "", "analysis") / RESULT_FILE
    instead(monkeypatch, f"open('{RESULT_FILE}', 'w').write({result.read_text()!r})")
    other = ct_series(8, 32, 32, seed=42)
    scored.take(*other, rtstruct(other))
    scored.work()
    bad, still = scored.items
    assert (bad.state, still.state) == (State.FAILED, good.state)
    assert "belongs to another work item" in caplog.text


@pytest.mark.parametrize(
    "trick",
    [
        "os.symlink('/etc/passwd', 'mask.nii.gz')",
        "os.mkfifo('mask.nii.gz')",
        "open('mask.nii.gz', 'wb').truncate(900_000_000)",
    ],
    ids=["link", "pipe", "sparse"],
)
def test_a_good_result_beside_a_file_that_is_none_is_not_taken(
    scored: Road, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, trick: str
) -> None:
    (good,) = scored.items
    text = (scored.spool.results(good.key or "", "analysis") / RESULT_FILE).read_text()
    other = ct_series(8, 32, 32, seed=43)
    instead(
        monkeypatch,
        f"text = {text!r}.replace({good.key!r}, key)\n{trick}\nopen('{RESULT_FILE}', 'w').write(text)",
    )
    scored.take(*other, rtstruct(other))
    scored.work()
    bad = scored.items[0]
    assert bad.state == State.FAILED
    assert re.search("mask.nii.gz|status 1", caplog.text)  # the kernel makes no pipe where the filter is
    assert not scored.spool.results(bad.key or "", "analysis").exists()


# -- what is promised --------------------------------------------------------------------------------------------


def test_a_node_that_requires_isolation_does_not_start_where_a_promise_cannot_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path)
    bundle = load(DEMO)
    required = replace(Job(), isolation="required")
    real = process.probe()
    monkeypatch.setattr(process, "probe", lambda: replace(real, missing=(sandbox.PROCESSES,)))
    with pytest.raises(Permanent, match=f"not to be had: {sandbox.PROCESSES}"):
        Runner(spool, required, bundle)
    monkeypatch.setattr(process, "probe", lambda: replace(real, missing=()))
    Runner(spool, required, bundle)


def test_a_node_says_at_start_what_its_jobs_run_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sandbox, "candidates", lambda root: [])
    runner = Runner(Spool(tmp_path), Job(), load(DEMO))
    assert "job.not_isolated jobs run without: no network, " in caplog.text
    assert sandbox.SYSTEM_CALLS in caplog.text
    assert "in force: limits of " in runner.executor.text
    assert "NOT in force: no network" in runner.executor.text
