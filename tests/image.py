"""python -m tests.image FOLDER: what the job's image (FOLDER/image, made by `make image`) and its containers keep.

Prints each check with what was found; any that fails makes the exit status 1. Where no container can be started it says
why and ends with 69, with IMAGE_OPTIONAL=1 in the environment with 0.
"""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from config.settings import Job
from dicom_node.executors import container_words as words
from dicom_node.executors.container import ContainerExecutor
from dicom_node.executors.contract import NotStarted
from models.bundle import DEMO
from scripts.image import NAME, Unusable, starts, usable_engine
from tests.e2e.node import completed, items_of, send, spool_of, wait_for, write_settings
from tests.e2e.test_three_processes import Processes
from tests.synthetic import ct_series, rtstruct, save_all

LARGEST_MB = 650
PHANTOM = Path(__file__).parents[2] / "shared" / "data" / "ibsi_1_ct_phantom" / "dicom"
PROGNODE = Path(sys.executable).with_name("prognode")
FAR = 60.0
UNLIMITED = "Resource limits are not supported and ignored"
Check = Callable[["Bench"], str]


class Bench:
    """The image on this machine, an executor with it, and a folder for files."""

    def __init__(self, folder: Path, engine: str, scratch: Path) -> None:
        self.folder, self.engine, self.scratch = folder, engine, scratch
        image = (folder / "image").read_text().strip()
        self.limits = Job(executor="container", engine=engine, image=image, isolation="required")
        self.executor = ContainerExecutor(self.limits, scratch)

    def said(self, *arguments: str) -> str:
        return subprocess.run([self.engine, *arguments], capture_output=True, text=True, check=True).stdout.strip()

    def inside(self, text: str, seconds: float = FAR, **limits: object) -> tuple[int | None, str]:
        """Run Python in a container with exactly the arguments of a job, with an empty IN and an OUT."""
        executor = ContainerExecutor(replace(self.limits, **limits), self.scratch) if limits else self.executor  # type: ignore[arg-type]
        with tempfile.TemporaryDirectory(dir=self.scratch) as own:
            folder_in, folder_out = Path(own, "in"), Path(own, "out")
            folder_in.mkdir()
            folder_out.mkdir()
            executor._give(folder_in, folder_out)
            code, said = executor._ask([words.PYTHON, "-c", text], folder_in, folder_out, seconds)
        # A user's podman says before each container what it cannot limit with control groups v1.
        return code, "\n".join(line for line in said.splitlines() if not line.startswith(UNLIMITED))

    def running(self, label: str) -> list[str]:
        return self.said("ps", "--quiet", "--filter", f"label={label}").split()


def size(bench: Bench) -> str:
    megabytes = int(bench.said("image", "inspect", "--format", "{{.Size}}", bench.limits.image)) / 1e6
    assert megabytes < LARGEST_MB, f"{megabytes:.0f} MB"
    return f"{megabytes:.0f} MB, at most {LARGEST_MB}"


def parts(bench: Bench) -> str:
    text = """
import importlib.metadata as m, json
from pathlib import Path
sbom = json.loads(Path("/usr/share/sbom/prognode-job.cdx.json").read_text())
print(json.dumps([{d.name: d.version for d in m.distributions()}, sbom]))
"""
    code, said = bench.inside(text)
    assert code == 0, said
    installed, sbom = json.loads(said)
    plain = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in installed.items()}
    named = {each["name"]: each["version"] for each in sbom["components"]}
    assert plain == named, f"installed and SBOM differ: {sorted(set(plain.items()) ^ set(named.items()))}"
    lock = dict(re.findall(r"(?m)^([a-z0-9.-]+)==(\S+)", (bench.folder / "requirements.txt").read_text()))
    assert plain == lock, "installed and hashed requirements differ"
    here = {name: importlib.metadata.version(name) for name in plain}
    assert here == plain, f"other versions than here: {sorted(set(here.items()) ^ set(plain.items()))}"
    return f"{len(named)} distributions: SBOM, hashed requirements, image and this environment agree"


def nothing_else(bench: Bench) -> str:
    unwanted = ("dicom_node", "pip", "fastapi", "pynetdicom", "torch", "sklearn")
    text = f"import importlib.util as u; print([name for name in {unwanted} if u.find_spec(name)])"
    code, said = bench.inside(text)
    assert (code, said) == (0, "[]"), said
    return "no service, no installer, no server, no torch in it"


def promises(bench: Bench) -> str:
    assert bench.executor.missing == (), bench.executor.missing
    return bench.executor.text


def memory(bench: Bench) -> str:
    code, said = bench.inside("x = b'1' * 600_000_000; print(len(x))", memory_bytes=300_000_000)
    assert code == 137, (code, said)
    return "600 MB in 300 MB: status 137"


def processes(bench: Bench) -> str:
    text = """
import os, time
count = 0
try:
    while count < 2000:
        if os.fork() == 0:
            time.sleep(30); os._exit(0)
        count += 1
    print(count, 0)
except OSError as error:
    print(count, error.errno)
"""
    code, said = bench.inside(text)
    count, number = map(int, said.split())
    assert (code, number) == (0, 11), (code, said)
    assert 200 < count < 256, said
    return f"fork number {count + 1} refused (EAGAIN)"


def cpu_time(bench: Bench) -> str:
    begin = time.monotonic()
    code, said = bench.inside("while True: pass", cpu_seconds=2)
    assert code == 137, (code, said)
    return f"an endless loop with 2 s of CPU time: status 137 after {time.monotonic() - begin:.1f} s"


def numbers(text: str) -> list[list[float]]:
    return [[float(word) for word in line.split()] for line in text.splitlines()]


def gives_way(bench: Bench) -> str:
    """Busy loops inside and outside, on one processor: CPU seconds of each while the inner one runs."""
    if bench.executor._engine.name == "podman" and os.geteuid() != 0:
        raise Unusable("rootless podman: shares count among what its user runs")
    text = f"""
import os, sys, time
os.sched_setaffinity(0, {{{min(os.sched_getaffinity(0))}}})
end = last = time.monotonic()
end += float(sys.argv[1]) if sys.argv[1:] else 6
while last < end:
    now = time.monotonic()
    if now - last > 0.05:
        last = now
        print(now, time.process_time())
"""
    with tempfile.TemporaryFile("w+") as said:
        outside = subprocess.Popen([sys.executable, "-u", "-c", text, "60"], stdout=said, start_new_session=True)
        code, inside = bench.inside(text)
        outside.kill()
        outside.wait()
        assert code == 0, inside
        said.seek(0)
        outer, inner = (numbers(each) for each in (said.read(), inside))
    begin, end = inner[0][0], inner[-1][0]
    meanwhile = [used for moment, used in outer if begin <= moment <= end]
    ratio = (meanwhile[-1] - meanwhile[0]) / (inner[-1][1] - inner[0][1])
    assert ratio > 2, f"a busy service gets {ratio:.1f} times the processor time of a job"
    return f"on one processor, what runs in no container gets {ratio:.1f} times the time of a job"


def network(bench: Bench) -> str:
    text = "import socket; s = socket.socket(); s.settimeout(5); print(s.connect_ex(('192.0.2.1', 80)))"
    code, said = bench.inside(text)
    assert (code, said) == (0, "101"), said
    return "connect: ENETUNREACH"


def writing(bench: Bench) -> str:
    text = """
import errno, os, subprocess
for path in ("/x", "/in/x", "/usr/x", "/opt/prognode/x", "/etc/x", "/sys/x", "/proc/sys/kernel/core_pattern"):
    try:
        open(path, "w").write("x"); print("WRITTEN", path)
    except OSError as error:
        print(errno.errorcode[error.errno], path)
open("/tmp/x", "w").write("#!/bin/sh"); os.chmod("/tmp/x", 0o755)
try:
    subprocess.run(["/tmp/x"]); print("RUN from /tmp")
except PermissionError:
    print("/tmp noexec")
open("/out/x", "w").write("x")
"""
    code, said = bench.inside(text)
    assert code == 0, said
    assert "WRITTEN" not in said, said
    assert "RUN" not in said, said
    return said.replace("\n", ", ")


def deadline(bench: Bench) -> str:
    with tempfile.TemporaryDirectory(dir=bench.scratch) as own:
        folder = Path(own, "in")
        folder.mkdir()
        bench.executor._give(folder, None)
        program = [words.PYTHON, "-c", "import time; time.sleep(60)"]
        argv = words.command(
            bench.executor._engine, bench.limits, "prognode-deadline", "prognode.trial=x", program,
            folder_in=folder, folder_out=None, seconds=2,
        )  # fmt: skip
        begin = time.monotonic()
        code = subprocess.run(argv, check=False, timeout=FAR).returncode
    assert code == 124, code
    return f"without any runner: ended after {time.monotonic() - begin:.1f} s of 60, status 124"


def file_size(bench: Bench) -> str:
    code, said = bench.inside("open('/out/x', 'wb').write(bytes(3_000_000))", output_bytes=1_000_000)
    assert code not in (0, None), said
    assert "File too large" in said, said
    return "3 MB in 1 MB: EFBIG"


def engines_words(bench: Bench) -> str:
    for status in (125, 126, 127):
        code, _ = bench.inside(f"raise SystemExit({status})")
        assert code == 70, code
    return "a job that ends with 125, 126 or 127 is not taken for the engine"


def not_there(bench: Bench) -> str:
    try:
        ContainerExecutor(replace(bench.limits, image=f"{NAME}@sha256:{'0' * 64}"), bench.scratch)
    except NotStarted as reason:
        return f"another digest is refused and not pulled: {str(reason)[:80]}"
    raise AssertionError("an image that is not there was used")


def telemetry(bench: Bench) -> str:
    text = """
import glob, os, onnxruntime, time
from pathlib import Path
time.sleep(3)
print([str(p) for p in Path("/tmp").rglob("*")], [k for k in os.environ if "ORT" in k])
"""
    code, said = bench.inside(text)
    assert (code, said) == (0, "[] ['ORT_DISABLE_TELEMETRY']"), said
    return "onnxruntime leaves no file"


def golden(bench: Bench) -> str:
    code, said = bench.executor.ask("analysis.golden", DEMO.resolve(), 120)
    assert code == 0, said
    return said


def phantom(bench: Bench) -> str:
    """The same bytes out of the container as out of the child process."""
    if not PHANTOM.is_dir():
        raise Unusable(f"{PHANTOM} is not there")
    files, seconds = {}, {}
    image = f'engine = "{bench.engine}"\nimage = "{bench.limits.image}"\nisolation = "required"\n'
    for name, lines in (("process", ""), ("container", image)):
        settings = bench.scratch / f"{name}.toml"
        settings.write_text(f'[node]\nspool = "{bench.scratch}/spool"\n[job]\nexecutor = "{name}"\n{lines}')
        out = bench.scratch / f"phantom-{name}"
        begin = time.monotonic()
        command = [str(PROGNODE), "score", str(PHANTOM), "--out", str(out), "--config", str(settings)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        seconds[name] = time.monotonic() - begin
        files[name] = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    pythons = set()
    for found in files.values():
        (result,) = [name for name in found if name.endswith("result.json")]
        version = re.search(rb'"python": "([\d.]+)"', found[result])
        assert version is not None
        pythons.add(version[1].decode())
        found[result] = found[result].replace(version[0], b"")
    # A result names its Python, and its objects' UIDs come of the result: with another patch release here than in the
    # base, they are other UIDs. What the job has computed, and the pages drawn of it, are compared all the same.
    compared = [name for name in files["process"] if len(pythons) == 1 or not name.endswith(".dcm")]
    assert set(files["process"]) == set(files["container"])
    differ = [name for name in compared if files["process"][name] != files["container"][name]]
    assert not differ, f"other bytes in {differ}"
    took = ", ".join(f"{name} {value:.1f} s" for name, value in seconds.items())
    names = ", ".join(sorted(Path(name).name for name in compared))
    return f"the same bytes: {names} (Python {' and '.join(sorted(pythons))}; whole command: {took})"


def killed(bench: Bench) -> str:
    """kill -9 of a runner with a container at work: the next one ends what outlived it, and scores the study once."""
    folder = bench.scratch / "node"
    chosen = {"executor": "container", "engine": bench.engine, "image": bench.limits.image, "isolation": "required"}
    write_settings(folder, job=chosen)
    label = f"{words.NODE_LABEL}={words.owner(spool_of(folder).root)}"
    other = bench.said(
        "run", "--detach", "--rm", "--network", "none", "--label", f"{words.NODE_LABEL}=another",
        "--entrypoint", "sleep", bench.limits.image, "300",
    )  # fmt: skip
    node = Processes(folder)
    try:
        node.start("work")
        ct = ct_series(16, 40, 40, seed=72)
        send(node.receiver.port, save_all([*ct, rtstruct(ct)], bench.scratch / "study"))
        node.start("run")
        (job,) = wait_for(lambda: bench.running(label), "a container is at work", folder=folder)
        first = int(bench.said("inspect", "--format", "{{.State.Pid}}", job))
        stopped = subprocess.run(["pkill", "-STOP", "-P", str(first)], check=False).returncode == 0  # its own children
        node.kill("run")
        time.sleep(2.0)
        outlived = bool(bench.running(label))
        assert outlived or not stopped, "the stopped container is gone"
        node.start("run")
        wait_for(lambda: items_of(folder)[0].state != "SCHEDULED", "it is analysed by the next", folder=folder)
        item = completed(folder, ct[0].StudyInstanceUID)
        assert (len(items_of(folder)), item.outcome, item.revision) == (1, "SCORED", 1)
        log = (folder / "run.log").read_text()
        assert "job.swept 1 jobs" in log or not outlived, log[-2000:]
        assert not bench.said("ps", "--all", "--quiet", "--filter", f"label={label}"), "a container is left"
        assert bench.running(f"{words.NODE_LABEL}=another"), "another node's container was ended"
    finally:
        node.stop()
        subprocess.run([bench.engine, "kill", other], capture_output=True, check=False)
    return f"container outlived its runner: {outlived}; ended by the next; scored once, in attempt {item.attempts}"


CHECKS: tuple[Check, ...] = (
    promises, size, parts, nothing_else, network, writing, memory, processes, cpu_time, gives_way, file_size, deadline,
    engines_words, not_there, telemetry, golden, phantom, killed,
)  # fmt: skip


def main(folder: Path) -> int:
    try:
        engine = usable_engine()
        with tempfile.TemporaryDirectory(prefix="image-") as scratch:
            image = folder / "image"
            starts(engine, image.read_text().strip() if image.exists() else f"{NAME}:latest", folder)
            return checked(Bench(folder, engine, Path(scratch)))
    except (Unusable, NotStarted) as reason:
        print(f"image-test: NOT CHECKED here: {reason}", file=sys.stderr)
        return 0 if os.environ.get("IMAGE_OPTIONAL") == "1" else os.EX_UNAVAILABLE


def checked(bench: Bench) -> int:
    """Exit status: 1 where a check failed, 69 where one could not be made and IMAGE_OPTIONAL is not set."""
    failed, not_made = 0, 0
    for check in CHECKS:
        try:
            print(f"ok    {check.__name__:14} {check(bench)}", flush=True)
        except AssertionError as error:
            failed += 1
            print(f"FAIL  {check.__name__:14} {error}", flush=True)
        except Unusable as reason:
            not_made += 1
            print(f"NOT CHECKED  {check.__name__:14} {reason}", flush=True)
    print(f"{len(CHECKS) - failed - not_made} of {len(CHECKS)} checks passed, {not_made} not made")
    optional = os.environ.get("IMAGE_OPTIONAL") == "1"
    return 1 if failed else os.EX_UNAVAILABLE if not_made and not optional else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1])))
