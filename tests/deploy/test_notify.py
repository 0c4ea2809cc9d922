"""What the processes say to systemd and take from it: real processes, with sockets passed as systemd passes them."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from pynetdicom import build_context
from pynetdicom.sop_class import Verification

from dicom_node import notify
from dicom_node.store import Store
from tests.network import call

PROGNODE = Path(sys.executable).with_name("prognode")
SETTINGS = """
[node]
port = 1
[[peers]]
ae_title = "MODALITY"
[hl7]
listen = true
port = 2
[web]
port = 3
[receive]
reserve_disk_bytes = 0
"""


class Manager:
    """The parts of systemd that we speak with: a notification socket, and listening sockets that outlive a process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.heard = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.heard.bind(str(folder / "notify"))
        self.heard.settimeout(120.0)
        self.listening = {name: socket.create_server(("127.0.0.1", 0)) for name in ("dicom", "hl7", "web")}
        (folder / "prognode.toml").write_text(SETTINGS)

    def port(self, name: str) -> int:
        return int(self.listening[name].getsockname()[1])

    @contextlib.contextmanager
    def process(self, command: str, *names: str) -> Iterator[subprocess.Popen[bytes]]:
        sockets = [self.listening[name].fileno() for name in names]

        def place() -> None:  # the child's descriptors from 3 on, whatever they were here
            high = [os.dup2(one, 100 + k) for k, one in enumerate(sockets)]
            for k, one in enumerate(high):
                os.dup2(one, 3 + k)

        environment = os.environ | {
            "NOTIFY_SOCKET": str(self.folder / "notify"),
            "LISTEN_FDS": str(len(names)),
            "LISTEN_FDNAMES": ":".join(names),
        }
        child = subprocess.Popen(
            ["sh", "-c", f'export LISTEN_PID=$$; exec "{PROGNODE}" {command} --config prognode.toml'],
            cwd=self.folder,
            env=environment,
            pass_fds=[3 + k for k in range(len(names))],
            preexec_fn=place,
            stdout=subprocess.DEVNULL,
            stderr=(self.folder / "log").open("ab"),
        )
        try:
            yield child
        finally:
            child.send_signal(signal.SIGTERM)
            child.wait(60)

    def next(self, wanted: str) -> str:
        """The next notification that has this line."""
        while True:
            said = self.heard.recv(4096).decode()
            if wanted in said.splitlines():
                return said

    def close(self) -> None:
        self.heard.close()
        for one in self.listening.values():
            one.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path)
    yield made
    made.close()


def echo(port: int) -> bool:
    """C-ECHO with the patience of a PACS."""
    association = call(port, [build_context(Verification)], seconds=60)
    if not association.is_established:
        return False
    status = association.send_c_echo()
    association.release()
    return "Status" in status and status.Status == 0


def test_no_caller_is_refused_while_a_socket_activated_receiver_is_restarted(manager: Manager) -> None:
    with manager.process("receive", "dicom", "hl7", "web"):
        said = manager.next("READY=1")
        assert f"STATUS=PROGNODE on port {manager.port('dicom')}: 0 associations, 0 objects stored" in said
        assert "WATCHDOG=1" in said.splitlines()
        assert echo(manager.port("dicom"))
        assert socket.create_connection(("127.0.0.1", manager.port("hl7"))).close() is None
    assert "STATUS=ending" in manager.next("STOPPING=1")
    assert "socket.unused systemd has passed web, which" in (manager.folder / "log").read_text()

    answers: list[bool] = []
    caller = threading.Thread(target=lambda: answers.append(echo(manager.port("dicom"))))
    caller.start()  # nobody is there now: it waits in systemd's socket
    with manager.process("receive", "dicom", "hl7"):
        caller.join(120)
        assert answers == [True]
    (received,) = Store.open(manager.folder / "spool" / "store.sqlite").vitals.components()
    assert received.facts["peers"] == {"MODALITY": {"associations": 1}}


def test_web_takes_its_socket_and_says_that_it_is_ready(manager: Manager) -> None:
    with manager.process("web", "web", "dicom"):
        manager.next("READY=1")
        manager.next("WATCHDOG=1")
        with socket.create_connection(("127.0.0.1", manager.port("web")), timeout=60) as sock:
            sock.sendall(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            assert sock.recv(64).startswith(b"HTTP/1.1 200")
    manager.next("STOPPING=1")


@pytest.mark.parametrize(("command", "name", "words"), [
    ("web", "web", "[web] host '0.0.0.0' can be reached from elsewhere"),
    ("receive", "hl7", "[hl7] on '0.0.0.0' anybody could rename patients"),
])  # fmt: skip
def test_where_systemd_listens_counts_and_not_what_the_settings_say(
    manager: Manager, command: str, name: str, words: str
) -> None:
    manager.listening[name] = socket.create_server(("0.0.0.0", 0))
    (manager.folder / "prognode.toml").write_text(SETTINGS.replace("port = 1\n", "port = 0\n", 1))
    with manager.process(command, name) as child:
        assert child.wait(60) == 78
    assert words in (manager.folder / "log").read_text()


class Half:
    """A part that works, or not."""

    def __init__(self, well: bool) -> None:
        self.well = well

    def pulse(self) -> tuple[bool, str]:
        return self.well, "of this part"


def test_the_watchdog_hears_nothing_while_a_part_is_stuck(manager: Manager, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(manager.folder / "notify"))
    notify.pulse([Half(True), Half(True)])
    assert manager.heard.recv(4096) == b"STATUS=of this part; of this part\nWATCHDOG=1"
    notify.pulse([Half(True), Half(False)])
    assert manager.heard.recv(4096) == b"STATUS=of this part; STUCK: of this part"


def test_a_door_whose_thread_hangs_is_stuck(tmp_path: Path) -> None:
    from config.settings import parse
    from dicom_node.receive import Receiver
    from dicom_node.spool import Spool

    settings, spool = parse({"node": {"port": 0}}, tmp_path), Spool(tmp_path / "spool")
    receiver = Receiver(settings, spool)
    receiver.start()
    try:
        assert receiver.pulse()[0]
        assert receiver._door is not None
        receiver._door._run = lambda: None  # type: ignore[method-assign]
        receiver._door._closing = True
        receiver._door._thread.join(60)
        receiver._door.turned -= notify.STUCK_SECONDS
        assert not receiver.pulse()[0]
    finally:
        receiver.stop()


def test_a_worker_is_stuck_when_its_clock_stands_or_a_single_stage_does_not_end(
    tmp_path: Path, manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    from config.settings import Settings
    from dicom_node.loop import Loop
    from dicom_node.spool import Spool

    now, spool = [1000.0], Spool(tmp_path / "spool")
    spool.create()
    loop = Loop(Settings(), spool, timer=lambda: now[0])
    begun, let_go, again = threading.Event(), threading.Event(), iter([True, False])

    def step_analyse() -> bool:
        if next(again):
            begun.set()
            let_go.wait(60)
        return False

    def step_plan() -> bool:
        return False

    assert loop.pulse() == (True, "work items: none yet")
    stage = threading.Thread(target=loop.drain, args=[step_analyse, "analyse-1"])
    stage.start()
    assert begun.wait(60)
    now[0] += notify.STUCK_SECONDS
    assert loop.pulse() == (False, "no stage has had a turn for 60 s; work items: none yet")
    loop.drain(step_plan, "plan")
    assert loop.pulse()[0]  # a job may take its time
    now[0] += Settings().job.wall_clock_seconds + 300 - notify.STUCK_SECONDS
    loop.drain(step_plan, "plan")
    assert loop.pulse() == (False, "analyse-1 for 1200 s (at most 1200 s); work items: none yet")
    monkeypatch.setenv("NOTIFY_SOCKET", str(manager.folder / "notify"))
    notify.pulse([loop])
    assert manager.heard.recv(4096) == b"STATUS=STUCK: analyse-1 for 1200 s (at most 1200 s); work items: none yet"
    let_go.set()
    stage.join(60)
    assert loop.pulse() == (True, "work items: none yet")


@pytest.mark.parametrize("patience", [30.0, 600.0])
def test_a_delivery_that_gives_each_answer_its_time_is_not_stuck(patience: float) -> None:
    from config.settings import Receive, Settings
    from dicom_node.turns import Turns, bounds

    now = [0.0]
    turns = Turns(bounds(Settings(receive=Receive(dimse_timeout_seconds=patience))), lambda: now[0])
    with turns.turn("deliver"):
        for _ in range(12):  # objects
            now[0] += patience
            with turns.turn("plan"):
                pass
            assert turns.stuck() == []


def test_a_job_that_waits_for_its_twin_and_then_for_its_cluster_is_not_stuck() -> None:
    from config.job import Dask, Job
    from config.settings import Settings
    from dicom_node.executors.dask import NO_WORKER_SECONDS
    from dicom_node.job import TWIN_SECONDS
    from dicom_node.turns import bounds

    assert bounds(Settings())["analyse"] == 1200.0
    for settings in (Settings(), Settings(job=Job(executor="dask", dask=Dask("tls://scheduler:8786")))):
        longest = TWIN_SECONDS + settings.job.answer_seconds + NO_WORKER_SECONDS
        assert bounds(settings)["analyse"] >= longest + 60
        assert bounds(settings)["golden"] >= bounds(settings)["analyse"]


@pytest.mark.parametrize("name", ["", "vsock:2:1", "relative"])
def test_nothing_is_said_where_nobody_asked(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    notify.say("READY=1")


def test_sockets_that_were_passed_to_another_process_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_PID", str(os.getpid() + 1))
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("LISTEN_FDNAMES", "dicom")
    assert notify.passed("dicom") is None
    assert notify.unused() == []
