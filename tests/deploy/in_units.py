"""Run by scripts/nspawn-test in the booted machine, as the node's user, with the installed program: what becomes of
jobs of executor `systemd` that break out, run over or fall over. Each is a unit `prognode-job@trial-*`.
"""

import os
import subprocess
import sys
from dataclasses import replace

from config.job import Job
from dicom_node.executors import systemd
from dicom_node.executors.contract import Ended, NotStarted

LIMITS = Job(executor="systemd")
REACHES = """
import os, socket
for what, path in (("spool", "/var/lib/prognode"), ("settings", "/etc/prognode"), ("journal", "/var/log")):
    try:
        os.listdir(path) if os.path.isdir(path) else open(path)
        print("sees", what, *os.listdir(path)) if os.path.isdir(path) and os.listdir(path) else None
    except OSError:
        pass
for pid in filter(str.isdigit, os.listdir("/proc")):
    if os.stat("/proc/" + pid).st_uid != os.getuid():
        print("sees the process", pid)
for family in (socket.AF_INET, socket.AF_UNIX):
    try:
        socket.socket(family)
        print("has a socket", family)
    except OSError:
        pass
for pid in range(1, 400):
    try:
        pid in (os.getpid(), os.getppid()) or os.kill(pid, 0) or print("can kill", pid)
    except OSError:
        pass
for path in ("/mnt/in/question", "/tmp/x", "/var/tmp/x", "/dev/shm/x", "/mnt/x", "/run/x", "/usr/x"):
    try:
        open(path, "w").write("x")
        print("writes", path)
    except OSError:
        pass
"""
HIDDEN = """
import os
os.mkdir("hidden", 0o700)
open("hidden/x", "wb").write(bytes(1000))
import time; time.sleep(60)
"""
CASES = {
    "reaches nothing": (REACHES, Ended(0), ""),
    "does as it should": ("print('well')", Ended(0), "well"),
    "fails": ("raise SystemExit(65)", Ended(65), ""),
    "says that it was not started": ("import os; os._exit(226)", Ended(70), ""),
    "says so as an engine": ("raise SystemExit(125)", Ended(70), ""),
    "takes more memory than it may": ("bytearray(9_000_000_000)", Ended(1), "MemoryError"),
    "takes a file more than it may": ("open('x', 'wb').truncate(2_000_000_000)", Ended(1), "File too large"),
    "is killed": ("import os; os.kill(os.getpid(), 9)", Ended(137), "Killed"),
    "kills all it can": ("import os; os.kill(-1, 9)", Ended(-9), ""),
    "does not end": ("import time; time.sleep(600)", Ended(None), ""),
    "writes more than it may": ("open('x', 'wb').write(bytes(3_000_000)); import time; time.sleep(60)",
                                Ended(None, "wrote"), ""),
    "hides what it writes": (HIDDEN, Ended(None, "wrote"), ""),
    "takes its log for a folder": ("import os; os.unlink('job.log'); os.mkdir('job.log')", Ended(0), ""),
    "takes its log for a link": ("import os; os.unlink('job.log'); os.symlink('/etc/passwd', 'job.log')", Ended(0), ""),
    "leaves a child": ("import os, time; os.fork() or time.sleep(600)", Ended(0), ""),
}  # fmt: skip


def tried(executor: systemd.SystemdExecutor, program: str) -> tuple[Ended, str]:
    with executor._own_folder("trial") as own:
        (own / "in").mkdir()
        (own / "out").mkdir()
        (own / "in" / "question").write_text("?")
        (own / "in" / systemd.TRIAL_FILE).write_text(program)
        systemd._let_in(own / "in", own / "out")
        limits = replace(LIMITS, wall_clock_seconds=5.0, output_bytes=2_000_000)
        ended = executor._run(own.name, own / "out", limits)
        systemd._keep_log(own / "out", own / "job.log")
        return ended, (own / "job.log").read_text().strip()


def refused() -> list[str]:
    """What the node's user may not do with the manager."""
    wrong = []
    key = "0" * 64
    for word, unit in (("start", f"prognode-job@..{key}.service"), ("stop", "dbus.service"),
                       ("start", "debug-shell.service"), ("start", f"prognode-job@{key[1:]}.service"),
                       ("set-property", f"prognode-job@{key}.service")):  # fmt: skip
        more = ["MemoryMax=1G"] if word == "set-property" else []
        done = subprocess.run(
            ["systemctl", "--no-ask-password", word, unit, *more], capture_output=True, text=True, check=False
        )
        if "authentication required" not in done.stderr.lower():
            wrong.append(f"{word} {unit}: {done.stderr.strip() or done.returncode}")
    return wrong


def main() -> int:
    wrong = refused()
    executor = systemd.SystemdExecutor(LIMITS)
    wrong += [f"missing: {each}" for each in executor.missing]
    for name, (program, expected, words) in CASES.items():
        ended, said = tried(executor, program)
        well = ended.exit_code == expected.exit_code and ended.broke.startswith(expected.broke)
        if not well or bool(ended.broke) != bool(expected.broke) or (words not in said if words else said):
            wrong.append(f"a job that {name}: {ended}, {said[-300:]!r}")
    try:
        wrong.append(f"a job without folders: {executor._run('0' * 64, systemd.SPOOL, LIMITS)}")
    except NotStarted as error:
        said = str(error)
        if "226" not in said:
            wrong.append(f"a job without folders: {said}")
    left = [path.name for path in (systemd.SPOOL / "jobs").iterdir() if path.name.startswith("trial-")]
    units = subprocess.run(["systemctl", "list-units", "--all", "--plain", "--no-legend", "prognode-job@*"],
                           capture_output=True, text=True, check=True).stdout  # fmt: skip
    wrong += [f"left: {each}" for each in (*left, *units.splitlines())]
    print(*wrong or [f"{len(CASES) + 1} jobs as they should end, as user {os.getuid()}, nothing left"], sep="\n")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
