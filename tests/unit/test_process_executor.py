"""The process executor: what confines a job here, what a job sees, and how its end is seen."""

import errno
import gc
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from config.settings import Job
from dicom_node.executors import cgroup, harvest, job_log, process, sandbox, syscalls
from dicom_node.executors.contract import NotStarted
from dicom_node.executors.sandbox import Isolation
from tests import hostile
from tests.hostile import Way, kept, log_of

LIMITS = Job()
BUBBLEWRAP = sandbox.candidates(root=True)[0]
GROUPS = (cgroup.Parent(Path("/sys/fs/cgroup"), "memory.max", "pids.max"),)


@pytest.fixture(params=hostile.ways(), ids=lambda way: way.name)
def way(request: pytest.FixtureRequest) -> Way:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def folder(tmp_path: Path, way: Way) -> Iterator[Path]:
    with hostile.job_folder(tmp_path, way) as made:
        yield made


# -- the argument list -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrap", sandbox.candidates(root=False), ids=lambda wrap: " ".join(wrap[:3]))
def test_the_command_passes_only_the_two_folders(tmp_path: Path, wrap: tuple[str, ...]) -> None:
    folders = (tmp_path / "in", tmp_path / "out")
    argv = process.command(*folders, LIMITS, Isolation(wrap, (), ()))
    assert argv[argv.index(sys.executable) :] == [sys.executable, "-P", "-m", "analysis.run", *map(str, folders)]
    assert argv.index("prlimit") < argv.index(sys.executable)
    assert ("--no-new-privs" in argv) == (wrap[0] == "unshare")  # bubblewrap always sets it


def test_bubblewrap_shows_the_job_the_system_our_packages_and_its_folders_alone(tmp_path: Path) -> None:
    folders = (tmp_path / "in", tmp_path / "out")
    argv = process.command(*folders, LIMITS, Isolation(BUBBLEWRAP, (), ()))
    pairs = [(argv[k + 1], argv[k]) for k, word in enumerate(argv) if word in ("--ro-bind", "--bind")]
    shown = {argv[k + 1] for k, word in enumerate(argv) if word in ("--ro-bind", "--bind")}
    assert [argv[k + 1] for k, word in enumerate(argv) if word == "--bind"] == [str(folders[1])]
    root = Path(process.__file__).parent.parent.parent
    ours = {str(root / name) for name in ("analysis", "models", "config")}
    pythons = {sys.prefix, sys.base_prefix, str(Path(sys.executable).resolve().parent.parent)}
    assert shown <= ours | pythons | set(map(str, folders)) | {"/proc/sys"}, pairs
    assert argv[argv.index("--remount-ro", argv.index("--bind")) + 1] == "/"


def test_what_is_promised_is_either_in_force_or_missing() -> None:
    names = {
        sandbox.NETWORK, sandbox.PRIVILEGES, sandbox.SYSTEM_CALLS, sandbox.INPUTS, sandbox.NOTHING_ELSE,
        sandbox.NO_SURVIVOR, sandbox.PROCESSES, sandbox.MEMORY, *sandbox.ALWAYS,
    }  # fmt: skip
    for root in (False, True):
        for wrap in (*sandbox.candidates(root=root), ()):
            for filtered, groups in ((False, ()), (True, GROUPS)):
                found = sandbox.promises(wrap, root=root, filtered=filtered, groups=groups)
                assert {name for name, _ in found.in_force} ^ set(found.missing) == names
                assert all(name in found.text for name in names)
    best = sandbox.promises(BUBBLEWRAP, root=False, filtered=True, groups=())
    assert best.missing == ()
    assert sandbox.PROCESSES in sandbox.promises(BUBBLEWRAP, root=True, filtered=True, groups=()).missing
    assert len(sandbox.promises((), root=True, filtered=False, groups=()).missing) == 7


def open_files() -> int:
    """Descriptors of this process, without what earlier tests have left to the collector: it may come at any time."""
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


# -- what a job sees ---------------------------------------------------------------------------------------------


def test_the_job_sees_nothing_of_the_node_s_environment(
    monkeypatch: pytest.MonkeyPatch, folder: Path, way: Way
) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "s3cr3t")
    code = "import os; print(sorted(os.environ)); print(open('/proc/self/environ').read())"
    assert way.run(folder, code)["exit_code"] == 0
    assert "OMP_NUM_THREADS" in log_of(folder)
    assert "SECRET" not in log_of(folder)
    assert "s3cr3t" not in log_of(folder)


def test_a_job_stands_behind_receiving_and_delivery_for_the_processor(folder: Path, way: Way) -> None:
    code = """
import os, time
print('niceness', os.nice(0))
end = time.monotonic() + 60  # it is said of the job while it runs already
while 'nice 10' not in (said := open('/proc/self/autogroup').read()) and time.monotonic() < end:
    time.sleep(0.02)
print(said)
"""
    if not Path("/proc/self/autogroup").exists():
        code = "import os; print('niceness', os.nice(0), 'nice 10')"
    assert way.run(folder, code)["exit_code"] == 0
    assert f"niceness {min(os.nice(0) + 10, 19)}" in log_of(folder)
    assert "nice 10" in log_of(folder)


def test_the_job_has_no_privileges_and_can_get_none(folder: Path, way: Way) -> None:
    code = (
        "status = dict(line.split(':', 1) for line in open('/proc/self/status') if ':' in line)\n"
        "print(*(status[k].strip() for k in ('CapEff', 'CapPrm', 'CapInh', 'NoNewPrivs', 'Seccomp')))"
    )
    assert way.run(folder, code)["exit_code"] == 0
    effective, permitted, inherited, no_new, filtered = log_of(folder).split()
    assert no_new == "1"
    assert int(inherited, 16) == 0
    assert (int(effective, 16), int(permitted, 16)) == (0, 0)
    if sandbox.SYSTEM_CALLS in kept(way)["in_force"]:
        assert filtered == "2"  # SECCOMP_MODE_FILTER


def test_a_job_that_wants_too_much_memory_gets_an_error(folder: Path, way: Way) -> None:
    assert way.run(folder, "x = bytearray(600_000_000)", memory_bytes=300_000_000)["exit_code"] == 1
    assert "MemoryError" in log_of(folder)


def test_a_job_that_takes_too_much_processor_time_is_killed(folder: Path, way: Way) -> None:
    ended = way.run(folder, "while True: pass", cpu_seconds=1)
    assert ended["exit_code"] in (-9, -24, 128 + 9, 128 + 24)


def test_a_job_cannot_open_files_without_end(folder: Path, way: Way) -> None:
    code = "import os\nheld = []\ntry:\n    while True: held.append(os.open('/dev/null', 0))\n"
    code += "except OSError as e: print(len(held), e)"
    assert way.run(folder, code)["exit_code"] == 0
    assert int(log_of(folder).split()[0]) <= 1024


def test_the_exit_status_is_the_job_s_own(folder: Path, way: Way) -> None:
    assert way.run(folder, "raise SystemExit(75)") == {"exit_code": 75, "broke": ""}


# -- its end -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["5.3", "4.18"])
def test_the_exit_status_is_known_when_it_is_there_and_none_is_made_up(
    kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_here(_: int) -> int:
        raise OSError(errno.ENOSYS, "Function not implemented")

    if kernel == "4.18":
        monkeypatch.setattr(os, "pidfd_open", none_here, raising=False)
    descriptors = open_files()
    with subprocess.Popen(["sh", "-c", "read line; exit 75"], stdin=subprocess.PIPE) as child:
        assert process._status(child, 0.01) is None
        assert child.stdin is not None
        child.stdin.close()
        assert process._status(child, 60.0) == 75
        assert process._status(child, 60.0) == 75
    assert open_files() == descriptors


def test_a_job_past_its_wall_clock_is_asked_to_end_and_may_tidy_up(folder: Path, way: Way) -> None:
    code = "import time\ntry: print('begun', flush=True); time.sleep(60)\nfinally: print('ended by itself', flush=True)"
    code = f"import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))\n{code}"
    for seconds in (1.0, 20.0, 60.0):
        assert way.run(folder, code, wall_clock_seconds=seconds)["exit_code"] is None
        if "ended by itself" in log_of(folder):  # a machine that stands still does not get so far in the first
            break
    assert "ended by itself" in log_of(folder)


def test_a_job_that_ignores_sigterm_is_killed_with_its_children(folder: Path, way: Way) -> None:
    token = secrets.token_hex(8)
    code = (
        "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        f"subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(300) # {token}'])\ntime.sleep(300)"
    )
    start = time.monotonic()
    assert way.run(folder, code, wall_clock_seconds=2.0)["exit_code"] is None
    assert time.monotonic() - start < 100
    assert hostile.gone(token)


def test_a_job_dies_with_its_worker(folder: Path, way: Way) -> None:
    token = secrets.token_hex(8)
    worker = way.runner(folder, f"import time; open('here', 'w').close(); time.sleep(300) # {token}")
    end = time.monotonic() + 60
    while not (folder / "out" / "here").exists() and time.monotonic() < end:
        time.sleep(0.05)
    assert len(hostile.running(token)) > 1
    os.kill(worker.pid, signal.SIGKILL)
    worker.communicate()
    assert hostile.gone(token)


def test_a_folder_that_a_job_has_closed_or_dug_deep_is_removed(tmp_path: Path, way: Way) -> None:
    if way.user != os.geteuid():
        pytest.skip("the node removes it, as the user that it runs as")
    code = (
        "import os\nos.makedirs('closed/inside'); os.chmod('closed', 0)\n"
        "for _ in range(3000): os.mkdir('d' * 200); os.chdir('d' * 200)"
    )
    with hostile.job_folder(tmp_path, way) as folder:
        way.run(folder, code)
        process.remove(folder)
        assert not folder.exists()


# -- what it leaves ----------------------------------------------------------------------------------------------


def test_a_plain_file_is_taken_and_an_absent_one_is_none(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 3_000_000)
    assert harvest.take(tmp_path, "a", 3_000_000, tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"x" * 3_000_000
    assert not harvest.take(tmp_path, "absent", 10, tmp_path / "c")
    assert harvest.read(tmp_path, "absent", 10) is None


def test_a_folder_that_is_closed_while_the_one_below_is_looked_at_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What root is never told: neither the folder nor who has it can be seen any more."""
    (tmp_path / "closed" / "inside").mkdir(parents=True)
    scandir, lstat = os.scandir, Path.lstat

    def refused(real: Callable[[Path], Any]) -> Callable[[Path], Any]:
        def asked(path: Path) -> Any:
            if Path(path).name == "inside":
                raise PermissionError(13, "Permission denied")
            return real(path)

        return asked

    monkeypatch.setattr(os, "scandir", refused(scandir))
    monkeypatch.setattr(Path, "lstat", refused(lstat))
    assert harvest.used(tmp_path, 1 << 50) < 1 << 50


def test_a_file_that_cannot_be_copied_is_closed_again(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    before = open_files()
    for _ in range(3):
        with pytest.raises(FileExistsError):
            harvest.take(tmp_path, "a", 10, tmp_path / "a")
    assert open_files() == before


def test_links_pipes_devices_folders_and_files_without_end_are_not_taken(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"another study")
    (tmp_path / "symlink").symlink_to(tmp_path / "secret")
    (tmp_path / "dangling").symlink_to("/nowhere")
    os.link(tmp_path / "secret", tmp_path / "hardlink")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "device").symlink_to("/dev/zero")
    with (tmp_path / "sparse").open("wb") as stream:
        stream.truncate(1 << 40)
    started = time.monotonic()
    for name in ("symlink", "dangling", "hardlink", "pipe", "folder", "device", "sparse"):
        with pytest.raises(harvest.Unfit, match=name):
            harvest.take(tmp_path, name, 1 << 30, tmp_path / "taken")
        with pytest.raises(harvest.Unfit):
            harvest.read(tmp_path, name, 1 << 30)
    assert time.monotonic() - started < 30  # a pipe would be waited for, /dev/zero read, for ever
    assert not (tmp_path / "taken").exists()


def test_what_is_used_counts_blocks_and_entries_and_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "b").write_bytes(b"x" * 1_000_000)
    with (tmp_path / "sparse").open("wb") as stream:
        stream.truncate(1 << 40)
    (tmp_path / "up").symlink_to("/")
    assert 1_000_000 <= harvest.used(tmp_path, 1 << 50) < 1_100_000
    for number in range(sandbox.MAXIMUM_FILES + 1):
        (tmp_path / "a" / str(number)).touch()
    assert harvest.used(tmp_path, 1 << 50) > 1 << 50


# -- the kernel's part -------------------------------------------------------------------------------------------


def test_the_filter_of_system_calls_is_compiled_or_said_to_be_missing() -> None:
    descriptor = syscalls.compiled()
    if descriptor is None:
        pytest.skip("no libseccomp here")
    try:
        size = os.fstat(descriptor).st_size
        assert size > 500
        assert size % 8 == 0  # instructions of struct sock_filter
    finally:
        os.close(descriptor)


MOUNTINFO = """\
25 30 0:23 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate
"""
MOUNTINFO_V1 = """\
31 30 0:26 / {0}/memory rw shared:9 - cgroup cgroup rw,memory
32 30 0:27 / {0}/cpu,cpuacct rw shared:10 - cgroup cgroup rw,cpu,cpuacct
33 30 0:28 / {0}/pids rw shared:11 - cgroup cgroup rw,pids
"""


def test_the_groups_of_both_versions_are_found_in_the_kernel_s_tables() -> None:
    assert cgroup._mounted(MOUNTINFO) == {"": Path("/sys/fs/cgroup")}
    assert cgroup._mounted(MOUNTINFO_V1.format("/cg"))["cpuacct"] == Path("/cg/cpu,cpuacct")
    assert cgroup._own_groups("0::/system.slice/x.service\n3:cpu,cpuacct:/a:b\n") == [
        ("", "/system.slice/x.service"), ("cpu", "/a:b"), ("cpuacct", "/a:b"),
    ]  # fmt: skip


def test_a_group_under_systemd_is_used_only_where_it_is_delegated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for cgroup v2: the files, without the kernel behind them."""
    service = tmp_path / "system.slice" / "node.service"
    service.mkdir(parents=True)
    for name, text in (("cgroup.controllers", "cpu memory pids"), ("cgroup.procs", ""), ("cgroup.subtree_control", "")):
        (service / name).write_text(text)
    own = {"": "/system.slice/node.service"}
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert cgroup._unified(own, {"": tmp_path}) == ()
    monkeypatch.setattr(os, "getxattr", lambda path, name: b"1" if name == "user.delegate" else b"")
    (parent,) = cgroup._unified(own, {"": tmp_path})
    assert (parent.folder, parent.memory, parent.processes) == (service, "memory.max", "pids.max")
    assert (service / "cgroup.subtree_control").read_text() == "+cpu +memory +pids"
    (service / "cgroup.controllers").write_text("cpu memory")
    assert cgroup._unified(own, {"": tmp_path}) == ()


def test_the_place_of_jobs_groups_is_found_again_by_a_node_that_has_moved_below_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for cgroup v2, with the rule that a group with processes gives none below it limits."""
    service = tmp_path / "system.slice" / "node.service"
    service.mkdir(parents=True)
    for name, text in (("cgroup.controllers", "memory pids"), ("cgroup.procs", "71\n72\n"), ("memory.max", "max")):
        (service / name).write_text(text)
    write = Path.write_text

    def kernel(path: Path, text: str) -> int:
        if path.name == "cgroup.subtree_control" and (path.parent / "cgroup.procs").read_text():
            raise OSError(errno.EBUSY, "Device or resource busy")
        if path.name == "cgroup.procs" and path.parent != service:
            left = (service / "cgroup.procs").read_text().split()
            left.remove(text)
            write(service / "cgroup.procs", "".join(f"{process}\n" for process in left))
            write(path.parent / "cgroup.controllers", "memory pids")
        return write(path, text)

    monkeypatch.setattr(Path, "write_text", kernel)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    delegated = {service: b"1"}
    monkeypatch.setattr(os, "getxattr", lambda path, name: delegated[path] if path in delegated else _no_data())
    first = cgroup._unified({"": "/system.slice/node.service"}, {"": tmp_path})
    assert first == (cgroup.Parent(service, "memory.max", "pids.max"),)
    assert (service / "cgroup.procs").read_text() == ""
    assert cgroup._unified({"": "/system.slice/node.service/node"}, {"": tmp_path}) == first
    assert not (service / "node" / "node").exists()


def test_a_job_gives_way_wholly_and_has_its_share_when_it_takes_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the kernel's own groups, where the tests may make them."""
    isolation = process.probe()
    monkeypatch.setattr(process, "GIVES_WAY_SECONDS", 0.0)
    monkeypatch.setattr(process, "command", lambda *_: ["sleep", "60"])
    for name in ("in", "out"):
        (tmp_path / name).mkdir()
    started = process.start(tmp_path / "in", tmp_path / "out", LIMITS, replace(isolation, filtered=False))
    try:
        folders = started.group._folders if started.group else []
        files = [folder / "cpu.idle" for folder in folders if (folder / "cpu.idle").exists()]
        if not files:
            pytest.skip("no control groups for the processor here (cpu.idle of Linux 5.15)")
        (idle,) = files
        assert idle.read_text().strip() == "1"
        running = threading.Thread(target=started.run, args=(tmp_path / "out", LIMITS))
        running.start()
        end = time.monotonic() + 30
        while idle.read_text().strip() != "0" and time.monotonic() < end:
            time.sleep(0.01)
        assert idle.read_text().strip() == "0"
        shares = idle.with_name("cpu.shares")
        assert shares.read_text().strip() == "110" if shares.exists() else True
    finally:
        started.child.kill()
        started.end()
    running.join(30)


def _no_data() -> bytes:
    raise OSError(errno.ENODATA, "No data available")


def test_each_job_gets_its_group_where_the_probe_has_found_the_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cgroup, "parents", lambda: pytest.fail("it is looked for once"))
    found = sandbox.promises((), root=True, filtered=False, groups=(cgroup.Parent(tmp_path, "", ""),))
    for _ in range(2):
        with process._group(LIMITS, found) as group:
            assert group is not None
            assert [folder.parent for folder in group._folders] == [tmp_path]


def test_as_many_jobs_run_at_once_as_there_are_processors_and_memory_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = tmp_path / "cgroup" / "prognode.slice" / "run.service"
    service.mkdir(parents=True)
    (service / "memory.max").write_text("max\n")
    (service.parent / "memory.max").write_text("17000\n")
    for name, text in (
        ("OWN", "0::/prognode.slice/run.service\n"),
        ("MOUNTS", f"1 1 0:1 / {tmp_path}/cgroup - cgroup2 c"),
    ):
        (tmp_path / name).write_text(text)
        monkeypatch.setattr(cgroup, name, tmp_path / name)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(4))
    assert cgroup.memory() == 17000
    assert [cgroup.slots(each, cgroup.memory()) for each in (8000, 100, 20_000)] == [2, 4, 1]


def test_a_log_that_cannot_be_written_does_not_hold_up_the_job(tmp_path: Path) -> None:
    for path in (tmp_path / "gone" / "job.log", Path("/dev/full")):
        child = subprocess.Popen(["sh", "-c", "head -c 3000000 /dev/zero"], stdout=subprocess.PIPE)
        assert child.stdout is not None
        job_log.keep(child.stdout, path)
        assert child.wait(60) == 0


def test_of_what_a_tool_says_the_end_is_kept_and_one_that_is_missing_is_not_its_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = ["sh", "-c", "head -c 3000000 /dev/zero | tr '\\0' x; echo; echo 9 numbers agree"]
    monkeypatch.setattr(process, "_confined", lambda *_: program)
    code, said = process.ask_module("analysis.golden", tmp_path, 60.0, LIMITS, Isolation((), (), ()))
    assert (code, said.splitlines()[-1]) == (0, "9 numbers agree")
    assert len(said) <= job_log.MAXIMUM_BYTES
    for gone in (["/nowhere/bwrap"], ["sh", "-c", "/nowhere/bwrap"]):
        monkeypatch.setattr(process, "_confined", lambda *_, gone=gone: gone)
        with pytest.raises(NotStarted):
            process.ask_module("analysis.golden", tmp_path, 60.0, LIMITS, Isolation((), (), ()))
    monkeypatch.setattr(process, "_confined", lambda *_: ["sleep", "60"])
    assert process.ask_module("analysis.golden", tmp_path, 0.1, LIMITS, Isolation((), (), ())) == (None, "")


def test_a_job_s_group_holds_its_processes_and_ends_with_all_of_them() -> None:
    above = cgroup.parents()
    if not above:
        pytest.skip("this machine gives us no control group")
    group = cgroup.Cgroup(above, 500_000_000, 20)
    child = subprocess.Popen([*group.join, "sh", "-c", "sleep 300 & sleep 300 & setsid sleep 300 & wait"])
    end = time.monotonic() + 60
    while len(group.processes()) < 4 and time.monotonic() < end:
        time.sleep(0.05)
    held = group.processes()
    assert len(held) == 4
    group.end()
    child.wait(60)
    assert group.processes() == []
    assert not any(folder.exists() for folder in group._folders)
