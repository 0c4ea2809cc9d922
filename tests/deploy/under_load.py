"""Run by scripts/nspawn-test in the network of the booted machine: a study through the units while they are restarted,
killed and upgraded, with C-ECHOs and requests of the page beside it. Ends with 1 when anything was lost.

An association or request that is open at the very moment of a `kill -9` breaks off; that is counted apart, and its
caller asks again. All else has to succeed: nobody is refused, and nothing acknowledged is missing or comes twice.
"""

import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from pydicom import dcmread
from pynetdicom import build_context
from pynetdicom.sop_class import Verification

from dicom_node.demo_pacs import DemoPacs
from tests.network import call

RECEIVER, PAGE, PATIENCE_SECONDS = ("127.0.0.1", 104), "http://127.0.0.1:443/health", 600.0
# After how many objects what happens to which unit.
BLOWS = {
    10: ("restart", "receive"), 20: ("kill", "receive"), 25: ("restart", "web"), 30: ("kill", "web"),
    40: ("upgrade", ""), 72: ("kill", "work"), 76: ("kill", "run"),
}  # fmt: skip
RESULT = 6  # objects of a scored study
KILLS: list[tuple[float, float]] = []  # between when and when: how long the word takes is not known


def echo() -> bool:
    association = call(RECEIVER[1], [build_context(Verification)], seconds=120)
    status = association.send_c_echo() if association.is_established else None
    association.release()
    return status is not None and status.get("Status") == 0


def page() -> bool:
    try:
        with urllib.request.urlopen(PAGE, timeout=120) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def stored(path: Path) -> bool:
    dataset = dcmread(path)
    context = build_context(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)
    association = call(RECEIVER[1], [context], seconds=120)
    if not association.is_established:
        return False
    status = association.send_c_store(dataset)
    association.release()
    return bool("Status" in status and status.Status == 0)


class Caller(threading.Thread):
    """Asks again and again, and counts."""

    def __init__(self, name: str, ask: Callable[[], bool]) -> None:
        super().__init__()
        self.title, self.ask, self.ended = name, ask, threading.Event()
        self.asked, self.lost, self.cut, self.slowest = 0, 0, 0, 0.0

    def once(self) -> bool:
        begin = time.monotonic()
        good, end = self.ask(), time.monotonic()
        cut = not good and any(begin <= until and since <= end + 0.2 for since, until in KILLS)
        self.asked += 1
        self.cut += cut
        self.lost += not good and not cut
        self.slowest = max(self.slowest, end - begin)
        if not good:
            print(f"  {self.title}: none after {end - begin:.3f} s" + (", cut by a kill" if cut else ""), flush=True)
        return good

    def run(self) -> None:
        while not self.ended.wait(0.2):
            self.once()

    def report(self) -> None:
        print(f"{self.title}: {self.asked}, open at a kill: {self.cut}, failed otherwise: {self.lost}, "
              f"slowest {self.slowest:.1f} s")  # fmt: skip


class Machine:
    """The booted machine, from outside."""

    def __init__(self, leader: str, upgrade: str) -> None:
        self.inside = ["nsenter", "-t", leader, "-m", "-u", "-i", "-n", "-p", "env", "-i",
                       "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive"]  # fmt: skip
        self.command, self.begun = upgrade, 0.0
        self.upgrading: subprocess.Popen[str] | None = None

    def strike(self, how: str, unit: str) -> None:
        print(f"  {how} {unit}", flush=True)
        if how == "upgrade":
            self.begun = time.monotonic()
            self.upgrading = subprocess.Popen([*self.inside, *self.command.split()], text=True,
                                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
            return
        begun = time.monotonic()
        if how == "kill":
            KILLS.append((begun, float("inf")))  # until it is said
        words = ["kill", "--signal=KILL"] if how == "kill" else [how, "--no-block"]
        subprocess.run([*self.inside, "systemctl", *words, f"prognode-{unit}"], check=True)
        if how == "kill":
            KILLS[-1] = (begun, time.monotonic())

    def upgraded(self) -> bool:
        """Wait for the end of the upgrade; whether it is well."""
        if self.upgrading is None:
            return True
        said, _ = self.upgrading.communicate(timeout=PATIENCE_SECONDS)
        print(f"upgrade of the package: {time.monotonic() - self.begun:.0f} s, exit status {self.upgrading.returncode}")
        if self.upgrading.returncode:
            print(said)
        return self.upgrading.returncode == 0


def send(files: list[Path], machine: Machine) -> tuple[Caller, bool]:
    sender, good = Caller("objects sent (C-STORE)", lambda: False), True
    for number, path in enumerate(files):
        if number in BLOWS:
            machine.strike(*BLOWS[number])
        if number == max(BLOWS) - 6:
            good = machine.upgraded()  # the last objects, and what kills the workers, come after it
        if machine.upgrading and machine.upgrading.poll() is None:
            time.sleep(1.0)  # so that there is load all the while
        sender.ask = lambda path=path: stored(path)
        while not sender.once():
            time.sleep(1.0)
    return sender, good


def main(leader: str, patient: Path, folder: Path, upgrade: str) -> int:
    machine = Machine(leader, upgrade)
    callers = [Caller("C-ECHO", echo), Caller("requests of the page", page)]
    with DemoPacs(folder, "DEMOPACS", 11113) as pacs:
        pacs.report_to = RECEIVER
        for caller in callers:
            caller.start()
        try:
            files = sorted(patient.rglob("*.dcm"))
            sender, good = send(files, machine)
            end, struck = time.monotonic() + PATIENCE_SECONDS, time.monotonic() + 8.0
            while len(pacs.objects()) < RESULT and time.monotonic() < end:
                time.sleep(0.5)
                if struck and time.monotonic() > struck:
                    machine.strike("kill", "run")  # it is at work on the study, or is about to be
                    struck = 0.0
            print(f"scored and delivered {time.monotonic() - end + PATIENCE_SECONDS:.0f} s after the last object")
            time.sleep(5.0)  # for what should not come any more
        finally:
            for caller in callers:
                caller.ended.set()
                caller.join()
        came = len(pacs.received)
        repeats = came - len({*pacs.received})
    for caller in (sender, *callers):
        caller.report()
    lost = sum(caller.lost for caller in (sender, *callers))
    print(
        f"objects of the result in the PACS: {came} of {RESULT}, twice: {repeats}; lost in all: {lost + RESULT - came}"
    )
    return int(bool(lost or repeats or came != RESULT or not good))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4]))
