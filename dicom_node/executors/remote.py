"""The worker's side of executor `dask`: one function that runs a job as the process executor does, on this machine.

It raises nothing: what Dask would log of an exception quotes the arguments, and those are images. Files of patients
are gone when a job has ended; those of bundles are kept by their SHA-256, so that a bundle travels once to a machine.
"""

import contextlib
import hashlib
import importlib
import os
import re
import secrets
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from analysis.contract import FEATURES_FILE, MASK_FILE, PICTURES_FILE, RESULT_FILE, TIMING_FILE, ExitCode
from config.identity import VERSION
from config.job import Job
from dicom_node.executors import harvest, job_log, parcel, process
from dicom_node.executors.contract import GOLDEN_SECONDS, Ended, NotStarted, for_a_tool
from dicom_node.executors.sandbox import Isolation

TAKEN = (FEATURES_FILE, MASK_FILE, PICTURES_FILE, TIMING_FILE, RESULT_FILE)
LIMITS = ("isolation", "memory_bytes", "cpu_seconds", "wall_clock_seconds", "output_bytes")
BUNDLE = "bundle"  # the folder in IN whose files are kept
KEPT_DAYS = 30.0  # a file of a bundle that no job has used
MAXIMUM_PARCEL = 16_000_000_000
_NAME = re.compile(r"(?:[A-Za-z0-9_-]{1,64}/)?[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_proving = threading.Lock()
_proved: dict[str, str] = {}  # what each bundle's golden case said on this machine: "" where it holds


def handle(request: bytes) -> bytes:
    """Do what a parcel asks, and give a parcel back: an end with files, "lacking", or "not_started" with the reason."""
    try:
        header, bodies = parcel.opened(request, MAXIMUM_PARCEL)
        return _answer(header, bodies)
    except (NotStarted, parcel.Unreadable) as error:
        return _refused(str(error))
    except OSError as error:
        return _refused(f"disk of the worker: {error.strerror}")
    except Exception as error:  # noqa: BLE001 - see above; the text could quote what it was given
        return _refused(f"{type(error).__name__} on the worker")


def _refused(why: str) -> bytes:
    """`worker`: the address by which the cluster knows this one."""
    with contextlib.suppress(ImportError, ValueError):
        return parcel.packed(
            {"not_started": why, "worker": importlib.import_module("distributed").get_worker().address}
        )
    return parcel.packed({"not_started": why})  # called by hand


def _answer(header: dict[str, Any], bodies: list[bytes]) -> bytes:
    if header["version"] != VERSION:
        raise NotStarted(f"the worker has Prognode {VERSION}, the node {str(header['version'])[:40]}")
    limits = Job(**{name: header["limits"][name] for name in LIMITS})
    isolation = _isolation()
    if limits.isolation == "required" and isolation.missing:
        raise NotStarted(f"isolation is required, but the worker lacks: {', '.join(isolation.missing)}")
    if "shared" in header:
        return _run_shared(Path(header["shared"]), limits, isolation)
    with _folder() as folder:
        lacking = _unpacked(header["files"], bodies, folder / "in")
        if lacking:
            return parcel.packed({"lacking": lacking})
        if "module" in header:
            code, said = process.ask_module(
                header["module"], folder / "in" / BUNDLE, header["seconds"], for_a_tool(limits), isolation
            )
            return parcel.packed({"exit_code": code, "said": said})
        _prove(folder / "in" / BUNDLE, limits, isolation)
        ended = process.run(folder / "in", folder / "out", limits, isolation)
        return _told(ended, folder / "out", limits)


@cache
def _isolation() -> Isolation:
    return process.probe()


def _told(ended: Ended, out: Path, limits: Job) -> bytes:
    """How it ended, the files that a job is to leave, and its log."""
    broke, found = ended.broke, {}
    try:
        for name in TAKEN:
            content = harvest.read(out, name, limits.output_bytes)
            if content is not None:
                found[name] = content
    except harvest.Unfit as error:
        broke, found = broke or f"left something else: {error}", {}
    log = harvest.read(out.parent, process.LOG_FILE, 4 * job_log.MAXIMUM_BYTES) or b""
    header = {"exit_code": ended.exit_code, "broke": broke, "files": [*found]}
    return parcel.packed(header, [*found.values(), log])


def _run_shared(job: Path, limits: Job, isolation: Isolation) -> bytes:
    """In the node's own folder, but with an OUT of this run: one that was given up may still be at work there."""
    if not (job / "in").is_dir():
        raise NotStarted('the worker does not see the spool; mount it under the same path, or set transfer = "bytes"')
    run = job / f"run-{secrets.token_hex(8)}"
    (run / "out").mkdir(parents=True, mode=0o700)
    _prove(job / "in" / BUNDLE, limits, isolation)
    ended = process.run(job / "in", run / "out", limits, isolation)
    return parcel.packed({"exit_code": ended.exit_code, "broke": ended.broke, "run": run.name})


def _prove(bundle: Path, limits: Job, isolation: Isolation) -> None:
    """The bundle's golden case on this machine, before its first job: other numbers must not come from worker 7."""
    name = hashlib.sha256(repr(sorted(harvest.digests(bundle).items())).encode()).hexdigest()
    with _proving:
        if name not in _proved:
            seconds = max(GOLDEN_SECONDS, limits.wall_clock_seconds)
            code, said = process.ask_module("analysis.golden", bundle, seconds, for_a_tool(limits), isolation)
            if code is None:
                raise NotStarted(
                    f"the golden case of the bundle did not end within {seconds:.0f} s on the worker; "
                    "where it is that slow, raise [job] wall_clock_seconds"
                )
            last = (said.splitlines()[-1:] or [f"status {code}"])[0]
            if code not in (ExitCode.OK, ExitCode.CONFIG):  # killed, for one: the next time it may run
                raise NotStarted(f"the golden case of the bundle could not be run on the worker: {last}")
            _proved[name] = "" if code == ExitCode.OK else last
        if _proved[name]:
            raise NotStarted(f"the golden case of the bundle fails on the worker: {_proved[name]}")


# -- files -------------------------------------------------------------------------------------------------------


def _home() -> Path:
    """The folder of this Dask worker; it is removed with it, and after its sudden death when the next one starts."""
    try:
        return Path(importlib.import_module("distributed").get_worker().local_directory)
    except (ImportError, ValueError):  # called by hand
        return Path(tempfile.gettempdir()) / f"prognode-worker-{os.getuid()}"


@contextmanager
def _folder() -> Iterator[Path]:
    folder = _home() / f"job-{secrets.token_hex(8)}"
    for name in ("in", "out"):
        (folder / name).mkdir(parents=True, mode=0o700)
    try:
        yield folder
    finally:
        process.remove(folder)


def _unpacked(files: list[dict[str, Any]], bodies: list[bytes], target: Path) -> list[str]:
    """Write the files of a parcel below `target`; gives the SHA-256 of those that were not sent and are not kept."""
    sent, lacking = iter(bodies), []
    kept = _home().parent / "prognode-bundles"
    kept.mkdir(parents=True, exist_ok=True, mode=0o700)
    for each in files:
        name, digest = each["name"], each["sha256"]
        if not _NAME.fullmatch(name) or not _SHA256.fullmatch(digest):
            raise parcel.Unreadable("the name of a file in it is not valid")
        content = next(sent) if each["sent"] else _kept(kept / digest, digest)
        if content is None:
            lacking.append(digest)
            continue
        if hashlib.sha256(content).hexdigest() != digest:
            raise parcel.Unreadable("a file in it has other bytes than its digest says")
        (target / name).parent.mkdir(exist_ok=True, mode=0o700)
        (target / name).write_bytes(content)
        if each["sent"] and name.startswith(f"{BUNDLE}/"):
            _keep(kept, digest, content)
    return lacking


def _kept(path: Path, digest: str) -> bytes | None:
    try:
        content = path.read_bytes()
        os.utime(path)
    except OSError:
        return None
    return content if hashlib.sha256(content).hexdigest() == digest else None


def _keep(kept: Path, digest: str, content: bytes) -> None:
    """Best effort: a full disk must not stop a job that has all its files."""
    draft = kept / f".{secrets.token_hex(8)}"
    with contextlib.suppress(OSError):
        draft.write_bytes(content)
        draft.replace(kept / digest)
        for old in kept.iterdir():
            if time.time() - old.stat().st_mtime > KEPT_DAYS * 86400:
                old.unlink()
