"""Odd numbers, a standard output that is full, and a SIGHUP that comes too early."""

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from dicom_node import notify
from dicom_node.spool import Spool
from dicom_node.store import Store
from tests.e2e.node import PROGNODE, write_settings
from tests.e2e.test_cli import run

HUGE = "99999999999999999999999"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = write_settings(tmp_path / "node")
    spool = Spool(tmp_path / "node" / "spool")
    spool.create()
    Store.open(spool.store).close()
    return path


@pytest.mark.parametrize(
    "action", ["retry", "hold", "release", "cancel", "rescore", "priority HIGH", "clinical withdraw"]
)
@pytest.mark.parametrize("number", [HUGE, "0"])
def test_a_number_that_no_row_can_have_is_wrong_use(config: Path, action: str, number: str) -> None:
    code, said = run(*action.split(), "--config", config, number)
    assert (code, "Invalid value for" in said) == (2, True)


@pytest.mark.parametrize("days", ["nan", "inf", "1e300", "-1", "3651"])
def test_a_token_has_a_time_that_a_calendar_knows(config: Path, days: str) -> None:
    assert run("token", "add", "monitor", "--config", config, "--days", days)[0] == 2


def test_tokens_of_an_odd_time_are_listed(config: Path) -> None:
    store = Store.open(Spool(config.parent / "spool").store)
    for name, moment in (("for-ever", float("inf")), ("nearly", 1e300)):
        store.accounts.add_token(f"prognode_{name}", name, "viewer", 1.0, moment)
    store.close()
    code, said = run("token", "list", "--config", config)
    assert (code, said.count("expires never")) == (0, 2)


@pytest.mark.parametrize("command", ["status", "config show"])
def test_a_full_output_is_one_line_and_an_error(config: Path, command: str) -> None:
    with open("/dev/full", "w") as full:
        words = [str(PROGNODE), *command.split(), "--config", str(config)]
        done = subprocess.run(words, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=60)
    assert done.returncode == os.EX_IOERR
    assert done.stderr == "prognode: what was to be printed cannot be written: No space left on device\n"


def test_a_hang_up_before_the_service_has_started_is_a_reload_then(capsys: pytest.CaptureFixture[str]) -> None:
    reloaded: list[int] = []

    def reload() -> None:
        reloaded.append(1)
        threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGTERM]).start()

    before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)}
    try:
        notify.hear_hang_ups()
        os.kill(os.getpid(), signal.SIGHUP)
        notify.pulse_until_signal([], reload)
    finally:
        signal.set_wakeup_fd(-1)
        for number, handler in before.items():
            signal.signal(number, handler)
    assert reloaded == [1]
    assert sys.exc_info() == (None, None, None)


def test_a_stop_that_comes_as_soon_as_it_can_be_heard_is_heard(monkeypatch: pytest.MonkeyPatch) -> None:
    put, pulses = signal.signal, []

    def put_and_send(number: int, handler: Any) -> None:
        put(number, handler)
        if number == signal.SIGTERM:
            os.kill(os.getpid(), signal.SIGTERM)

    class Counted:
        def pulse(self) -> tuple[bool, str]:
            pulses.append(1)
            assert len(pulses) == 1, "it goes on"
            return True, ""

    before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)}
    monkeypatch.setattr(notify, "PULSE_SECONDS", 0.01)
    monkeypatch.setattr(signal, "signal", put_and_send)
    try:
        notify.pulse_until_signal([Counted()])
    finally:
        monkeypatch.undo()
        signal.set_wakeup_fd(-1)
        for number, handler in before.items():
            signal.signal(number, handler)


def test_the_watchdog_hears_of_a_process_that_reads_its_settings_and_a_stop_does_not_wait_for_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_go = threading.Event()

    def reload() -> None:
        os.kill(os.getpid(), signal.SIGHUP)  # another one meanwhile waits for its turn
        let_go.wait(60)

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(60)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setattr(notify, "PULSE_SECONDS", 0.05)
        heard: list[str] = []

        def hear() -> None:
            while heard[-1:] != ["STOPPING=1\nSTATUS=ending what is at work"]:
                heard.append(manager.recv(1000).decode())
                if len(heard) == 6:
                    os.kill(os.getpid(), signal.SIGTERM)

        before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT)}
        listener = threading.Thread(target=hear)
        try:
            notify.hear_hang_ups()
            os.kill(os.getpid(), signal.SIGHUP)
            listener.start()
            notify.pulse_until_signal([], reload)
        finally:
            signal.set_wakeup_fd(-1)
            for number, handler in before.items():
                signal.signal(number, handler)
            let_go.set()
        listener.join(60)
        for thread in [one for one in threading.enumerate() if one.name == "reload"]:
            thread.join(60)
        manager.setblocking(False)
        with pytest.raises(BlockingIOError):  # a process that stops is not READY again
            manager.recv(1000)
        begun = next(place for place, words in enumerate(heard) if words.startswith("RELOADING=1"))
        assert all("WATCHDOG=1" in words for words in heard[begun + 1 : -1])
        assert sum(words.startswith("RELOADING=1") for words in heard) == 1


def test_config_check_names_a_bundle_that_is_none(tmp_path: Path) -> None:
    path = write_settings(tmp_path / "node")
    path.write_text('bundle = "/etc/passwd"\n' + path.read_text())
    code, said = run("config", "check", "--config", path)
    assert (code, "bundle: /etc/passwd/manifest.json is not there" in said) == (os.EX_CONFIG, True)
