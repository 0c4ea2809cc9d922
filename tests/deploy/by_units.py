"""Run by scripts/nspawn-test in the network of the booted machine, where jobs are units: the runner is killed while
systemd runs its job. Ends with 1 when the study is not scored once, or the killed runner's unit goes on.
"""

import subprocess
import sys
import time
from pathlib import Path

from dicom_node.demo_pacs import DemoPacs
from tests.deploy.under_load import PATIENCE_SECONDS, RECEIVER, RESULT, Machine, stored


class Units(Machine):
    """The booted machine's units of jobs."""

    def told(self, *words: str) -> list[str]:
        done = subprocess.run([*self.inside, *words], capture_output=True, text=True, check=False)
        return done.stdout.splitlines()

    def at_work(self) -> list[str]:
        """Units of jobs, not of trials and golden cases."""
        lines = self.told("systemctl", "list-units", "--plain", "--no-legend", "--state=activating", "prognode-job@*")
        return [unit for unit in (line.split()[0] for line in lines) if "-" not in unit.partition("@")[2]]

    def said(self, unit: str, what: str) -> list[str]:
        return self.told("journalctl", f"--unit={unit}", "--output=cat", "--no-pager", f"--grep={what}")


def killed(machine: Units) -> str:
    """Kill the runner when a job is at work, and give the job's unit."""
    end = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < end:
        for unit in machine.at_work():
            # It cannot end by itself before the next runner is there, however fast it is.
            machine.told("systemctl", "kill", "--signal=STOP", unit)
            machine.strike("kill", "run")
            return unit
        time.sleep(0.05)
    return ""


def main(leader: str, patient: Path, folder: Path) -> int:
    machine = Units(leader, "")
    with DemoPacs(folder, "DEMOPACS", 11113) as pacs:
        pacs.report_to = RECEIVER
        sent = [stored(path) for path in sorted(patient.rglob("*.dcm"))]
        unit, end = killed(machine), time.monotonic() + PATIENCE_SECONDS
        while len(pacs.objects()) < RESULT and time.monotonic() < end:
            time.sleep(0.1)
        time.sleep(5.0)  # for what should not come any more
        came, repeats = len(pacs.received), len(pacs.received) - len({*pacs.received})
    swept, starts, left = machine.said("prognode-run", "job.swept"), machine.said(unit, "^Starting"), machine.at_work()
    print(f"objects sent: {len(sent)}, refused: {sent.count(False)}; at work at the kill: {unit[:24]}...")
    print(*swept, sep="\n")
    print(f"starts of the job: {len(starts)}, at work in the end: {len(left)}; "
          f"objects of the result in the PACS: {came} of {RESULT}, twice: {repeats}")  # fmt: skip
    once = len(swept) == 1 and "job.swept 1 jobs" in swept[0] and len(starts) == 2 and not left
    return int(not all(sent) or not once or came != RESULT or bool(repeats))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])))
