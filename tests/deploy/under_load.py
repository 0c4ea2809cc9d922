"""Run by scripts/nspawn-test in the network of the booted machine: a study through the units while they are restarted
and killed, and C-ECHOs beside it. Ends with 1 when an association failed or an object is missing or came twice."""

import subprocess
import sys
import threading
import time
from pathlib import Path

from pydicom import dcmread
from pynetdicom import AE
from pynetdicom.sop_class import Verification

from dicom_node.demo_pacs import DemoPacs

RECEIVER, PATIENCE_SECONDS = ("127.0.0.1", 104), 600.0
# After how many objects what happens to which unit.
BLOWS = {20: ("restart", "receive"), 50: ("kill", "receive"), 70: ("kill", "work")}
RESULT = 6  # objects of a scored study


def entity() -> AE:
    ae = AE("MODALITY")
    ae.connection_timeout = ae.acse_timeout = ae.dimse_timeout = 120
    return ae


class Echoes(threading.Thread):
    """One C-ECHO after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.ended = threading.Event()
        self.tried, self.lost, self.slowest = 0, 0, 0.0

    def run(self) -> None:
        while not self.ended.wait(0.2):
            ae, begin = entity(), time.monotonic()
            ae.add_requested_context(Verification)
            association = ae.associate(*RECEIVER, ae_title="PROGNODE")
            status = association.send_c_echo() if association.is_established else None
            association.release()
            self.tried += 1
            self.lost += status is None or status.get("Status") != 0
            self.slowest = max(self.slowest, time.monotonic() - begin)


def stored(path: Path) -> bool:
    dataset, ae = dcmread(path), entity()
    ae.add_requested_context(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)
    association = ae.associate(*RECEIVER, ae_title="PROGNODE")
    if not association.is_established:
        return False
    status = association.send_c_store(dataset)
    association.release()
    return bool("Status" in status and status.Status == 0)


def main(leader: str, patient: Path, folder: Path) -> int:
    def strike(how: str, unit: str) -> None:
        words = ["kill", "--signal=KILL"] if how == "kill" else [how, "--no-block"]
        inside = ["nsenter", "-t", leader, "-m", "-u", "-i", "-n", "-p", "systemctl"]
        subprocess.run([*inside, *words, f"prognode-{unit}"], check=True)
        print(f"{how} prognode-{unit}", flush=True)

    echoes, again = Echoes(), 0
    with DemoPacs(folder, "DEMOPACS", 11113) as pacs:
        pacs.report_to = RECEIVER
        echoes.start()
        try:
            files = sorted(patient.rglob("*.dcm"))
            for number, path in enumerate(files):
                if number in BLOWS:
                    strike(*BLOWS[number])
                while not stored(path):
                    again += 1
                    time.sleep(1.0)
            end, struck = time.monotonic() + PATIENCE_SECONDS, time.monotonic() + 15.0
            while len(pacs.objects()) < RESULT and time.monotonic() < end:
                time.sleep(1.0)
                if struck and time.monotonic() > struck:
                    strike("kill", "work")  # it is at work on the study, or is about to be
                    struck = 0.0
            time.sleep(5.0)  # for what should not come any more
        finally:
            echoes.ended.set()
            echoes.join()
        came = len(pacs.received)
        repeats = came - len({*pacs.received})
    print(f"objects sent: {len(files)}, sent again because an association failed: {again}")
    print(f"C-ECHO: {echoes.tried}, failed: {echoes.lost}, slowest {echoes.slowest:.1f} s")
    print(f"objects of the result in the PACS: {came} of {RESULT}, twice: {repeats}")
    return int(bool(again or echoes.lost or repeats or came != RESULT))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])))
