"""Executor `dask`: jobs run on the workers of a Dask cluster; the store stays the truth, the cluster only executes.

A worker that is lost costs nothing: Dask runs its jobs again at once. Where the scheduler is lost, no job can be
started, and what was at work is given up: those studies wait without an attempt, and an answer that comes late is
never looked at. A job that kills its workers again and again ends as one that was killed.

Who holds a certificate of the cluster's authority can run code on its workers, its scheduler and in this process.
"""

import concurrent.futures
import contextlib
import hashlib
import importlib
import json
import logging
import os
import re
import threading
import time
from asyncio import CancelledError
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from config.identity import VERSION
from config.job import Dask, Job
from dicom_node.executors import job_log, parcel, process, remote
from dicom_node.executors.contract import Ended, NotStarted
from dicom_node.spool import sha256

LOGGER = logging.getLogger(__name__)
CONNECT_SECONDS = 5.0
SILENCE_SECONDS = "20s"  # until a connection on which nothing is acknowledged counts as lost
LOOK_SECONDS = 2.0
NO_WORKER_SECONDS = 20.0  # that a job waits where no worker could take it
WORKERS_ASKED = 3  # where one says that it cannot start a job
AVOIDED_SECONDS = 60.0  # is such a one, while there are others
KILLED = -9  # the exit status of a job that has killed its workers, as if the kernel had killed it
_RUN = re.compile(r"run-[0-9a-f]{16}")
_QUIET = ("distributed", "distributed.client", "distributed.core", "distributed.comm", "distributed.batched")


class DaskExecutor:
    """Each job a task of the cluster, under a key that its content gives: the same job twice is one."""

    def __init__(self, limits: Job) -> None:
        """Raises NotStarted where Dask is not installed. A cluster that is away may come: its jobs wait for it."""
        self.limits = limits
        self._cluster = cluster(limits.dask)
        self._travelled: set[str] = set()  # files of bundles that some worker has by now
        if limits.dask.scheduler.startswith("tcp:"):
            text = "job.cluster_open %s is without TLS: whoever reaches it sees images and runs code here and there"
            LOGGER.warning(text, limits.dask.scheduler)

    @property
    def text(self) -> str:
        how = "their files are sent" if self.limits.dask.transfer == "bytes" else "over shared storage"
        return f"on the Dask cluster {self.limits.dask.scheduler}, {how}; each worker confines its jobs as it can"

    @property
    def missing(self) -> tuple[str, ...]:
        """A worker says what it lacks when it gets a job, and takes none where that is required."""
        return () if self.limits.isolation == "required" else ("the same promises on every worker",)

    @property
    def read_only(self) -> bool:
        return self.limits.dask.transfer == "bytes"  # what is sent cannot be changed

    @property
    def slots(self) -> int:
        """Jobs that the cluster has room for now; as many as there are processors here, while it is away."""
        with contextlib.suppress(NotStarted):
            return self._cluster.room() or len(os.sched_getaffinity(0))
        return len(os.sched_getaffinity(0))

    def run(self, folder_in: Path, folder_out: Path, key: str) -> Ended:
        if self.limits.dask.transfer == "shared":
            header, bodies = self._asked(key, {"shared": str(folder_in.parent)}, self.limits.answer_seconds)
        else:
            header, bodies = self._sent(key, folder_in, "", {}, self.limits.answer_seconds)
        if header.get("killed"):
            return Ended(KILLED)
        code, broke = header.get("exit_code"), header.get("broke")
        if not (code is None or type(code) is int) or not isinstance(broke, str):
            raise NotStarted("the worker's answer is not valid")
        if "run" in header:
            _take_over(folder_in.parent, header["run"], folder_out)
        else:
            _write(header.get("files"), bodies, folder_out)
        return Ended(code, broke)

    def ask(self, module: str, folder: Path, seconds: float) -> tuple[int | None, str]:
        more = {"module": module, "seconds": seconds}
        header, _ = self._sent(f"ask-{module}", folder, f"{remote.BUNDLE}/", more, seconds)
        code, said = header.get("exit_code", KILLED), header.get("said", "")
        if not (code is None or type(code) is int) or not isinstance(said, str):
            raise NotStarted("the worker's answer is not valid")
        return code, said

    def sweep(self) -> int:
        return 0  # the scheduler has given up what a client that is gone had asked for

    # -- sending ------------------------------------------------------------------------------------------------

    def _sent(
        self, key: str, folder: Path, prefix: str, more: dict[str, Any], seconds: float
    ) -> tuple[dict[str, Any], list[bytes]]:
        """Send files and get the answer; a bundle's files again only where the worker says that it lacks them."""
        found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        digests = {path.relative_to(folder).as_posix(): sha256(path) for path in found}
        bundle = {digest for name, digest in digests.items() if f"{prefix}{name}".startswith(f"{remote.BUNDLE}/")}
        for left_out in (bundle & self._travelled, set()):
            files = [{"name": f"{prefix}{n}", "sha256": d, "sent": d not in left_out} for n, d in digests.items()]
            paths = [folder / name for name, digest in digests.items() if digest not in left_out]
            header, bodies = self._asked(key, {"files": files, **more}, seconds, paths)
            if "lacking" not in header:
                self._travelled |= bundle
                return header, bodies
        raise NotStarted("a worker says that files are lacking which were sent")

    def _asked(
        self, key: str, request: dict[str, Any], seconds: float, paths: Sequence[Path] = ()
    ) -> tuple[dict[str, Any], list[bytes]]:
        """The answer to a request with these files; {"killed": True} where no worker has survived it.

        A worker that cannot start it answers at once and would be given more: another one is asked. The task's key is
        of the content: other limits or other bytes are another task.
        """
        limits = {name: getattr(self.limits, name) for name in remote.LIMITS}
        header = {"version": VERSION, "limits": limits, **request}
        content = hashlib.sha256(json.dumps(header, sort_keys=True).encode()).hexdigest()
        most = self.limits.output_bytes * (len(remote.TAKEN) + 1)

        def parcel_of_it() -> bytes:
            return parcel.packed(header, [path.read_bytes() for path in paths])

        name = f"prognode-{key}-{content[:16]}"
        why = ""
        for turn in range(WORKERS_ASKED):
            answer = self._cluster.answer(f"{name}-{turn}", parcel_of_it, seconds)
            if answer is None:
                return {"killed": True}, []
            try:
                header, bodies = parcel.opened(answer, most)
            except parcel.Unreadable as error:
                raise NotStarted(f"the worker's answer is not valid: {error}") from None
            if "not_started" not in header:
                return header, bodies
            worker = _plain(header.get("worker", ""))
            why = f"{worker and f'worker {worker}: '}{_plain(header['not_started'])}"
            if not worker or not self._cluster.avoid(worker):
                break
        raise NotStarted(why)


def _plain(text: object) -> str:
    """What a worker says, for the log: short and printable."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(text)[:300])


def _write(names: object, bodies: list[bytes], folder_out: Path) -> None:
    """The files that a job leaves, and its log; by the names that we know, in OUT and beside it."""
    if not isinstance(names, list) or not set(map(str, names)) <= set(remote.TAKEN) or len(bodies) != len(names) + 1:
        raise NotStarted("the worker's answer is not valid: other files than a job leaves")
    for name, content in zip(names, bodies, strict=False):
        (folder_out / str(name)).write_bytes(content)
    (folder_out.parent / process.LOG_FILE).write_bytes(bodies[-1][-4 * job_log.MAXIMUM_BYTES :])


def _take_over(job: Path, name: object, folder_out: Path) -> None:
    """OUT of the run that is answered for takes OUT's place; what a run that was given up has left is not looked at."""
    if not isinstance(name, str) or not _RUN.fullmatch(name) or (job / name).is_symlink():
        raise NotStarted("the worker's answer is not valid: no folder of a run")
    folder_out.rmdir()
    (job / name / "out").rename(folder_out)
    with contextlib.suppress(FileNotFoundError):
        (job / name / process.LOG_FILE).rename(job / process.LOG_FILE)


# -- the cluster ---------------------------------------------------------------------------------------------------


@cache
def cluster(dask: Dask) -> "Cluster":
    """One connection for each cluster in this process."""
    return Cluster(dask)


class Cluster:
    """The connection to a scheduler: made when it is needed, and again when it was lost."""

    def __init__(self, dask: Dask) -> None:
        """Raises NotStarted where Dask is not installed."""
        self._dask, self._lock, self._making = dask, threading.Lock(), threading.Lock()
        self._client: Any = None
        self._room, self._looked = 0, float("-inf")
        self._able: set[str] = set()  # addresses of workers that can run a job
        self._avoided: dict[str, float] = {}  # those that could not start one, until when
        try:
            self._library: Any = importlib.import_module("distributed")
            options = importlib.import_module("dask.config")
        except ImportError as error:
            raise NotStarted("Dask is not installed; install prognode[dask]") from error
        options.set({"distributed.comm.timeouts.tcp": SILENCE_SECONDS})
        options.set({"distributed.admin.large-graph-warning-threshold": "1TiB"})  # a series is what it is
        for name in _QUIET:  # what matters of it is said in our words
            logging.getLogger(name).setLevel(logging.CRITICAL)

    def answer(self, key: str, request: Callable[[], bytes], seconds: float) -> object:
        """What `remote.handle` gives for a parcel on some worker; None where it has killed its workers.

        One parcel is made at a time and none is kept while it is waited for: a series has hundreds of megabytes.
        Raises NotStarted where the cluster is away, has no worker for it, or gives no answer.
        """
        client = self._connected()
        needs = self._dask.needs or None
        try:
            with self._making:
                workers = self._preferred()
                future = client.submit(
                    remote.handle, request(), key=key, pure=False, resources=needs, retries=0,
                    workers=workers, allow_other_workers=workers is not None,
                )  # fmt: skip
            try:
                return self._waited(future, seconds)
            finally:
                future.release()
        except self._library.scheduler.KilledWorker:
            return None
        except (CancelledError, concurrent.futures.CancelledError) as error:
            raise NotStarted(f"the scheduler {self._dask.scheduler} was lost") from error
        except NotStarted:
            raise
        except Exception as error:  # Dask's own, and what a worker without our package says
            raise NotStarted(f"the cluster could not do it ({type(error).__name__})") from error

    def room(self) -> int:
        """How many jobs its workers can run side by side. Raises NotStarted."""
        with self._lock:
            fresh = time.monotonic() - self._looked < LOOK_SECONDS
        if fresh:
            return self._room
        client = self._connected()
        try:
            known = client.sync(client.scheduler.identity, n_workers=-1, callback_timeout=CONNECT_SECONDS)
        except Exception as error:
            raise NotStarted(f"the scheduler {self._dask.scheduler} does not answer") from error
        with self._lock:
            places = {address: _places(worker, self._dask.needs) for address, worker in known["workers"].items()}
            self._room, self._able = sum(places.values()), {address for address, room in places.items() if room}
            self._looked = time.monotonic()
        return self._room

    def avoid(self, worker: str) -> bool:
        """Prefer the others for a while; whether there are any. Raises NotStarted."""
        with self._lock:
            self._avoided[worker] = time.monotonic() + AVOIDED_SECONDS
        self.room()
        return self._preferred() is not None

    def _preferred(self) -> list[str] | None:
        """The workers but those that could not start a job of late; None where that is none of them, or all."""
        with self._lock:
            now = time.monotonic()
            self._avoided = {worker: until for worker, until in self._avoided.items() if until > now}
            left = self._able - self._avoided.keys()
        return sorted(left) if left and left != self._able else None

    def close(self) -> None:
        """Let go of the scheduler; what was asked of it is given up there."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(Exception):
                client.close(timeout=CONNECT_SECONDS)

    def _waited(self, future: Any, seconds: float) -> object:
        """Wait for the answer, while somebody could give it. A job may be run again after a worker's death."""
        began = seen = time.monotonic()
        while True:
            try:
                return future.result(timeout=LOOK_SECONDS)
            except TimeoutError:
                now = time.monotonic()
            with contextlib.suppress(NotStarted):  # then the connection says so
                seen = now if self.room() else seen
            if now - seen > NO_WORKER_SECONDS:
                future.cancel()
                wanted = ", ".join(self._dask.resources)
                raise NotStarted(f"no worker of the cluster can take a job{wanted and f' that needs {wanted}'}")
            if now - began > seconds + NO_WORKER_SECONDS:
                future.cancel()
                raise NotStarted("the cluster has given no answer")

    def _connected(self) -> Any:
        """A client of the scheduler. Raises NotStarted, also while a lost one is being looked for."""
        with self._lock:
            if self._client is not None and self._client.status == "running":
                return self._client
            if self._client is not None:
                with contextlib.suppress(Exception):
                    self._client.close(timeout=0)
                self._client = None
            try:
                self._client = self._library.Client(
                    self._dask.scheduler, security=self._security(), timeout=CONNECT_SECONDS,
                    set_as_default=False, name="prognode",
                )  # fmt: skip
            except Exception as error:
                text = f"the scheduler {self._dask.scheduler} cannot be reached ({type(error).__name__})"
                raise NotStarted(text) from error
            return self._client

    def _security(self) -> Any:
        if not self._dask.scheduler.startswith("tls:"):
            return None
        return self._library.Security(
            tls_ca_file=str(self._dask.ca), tls_client_cert=str(self._dask.certificate),
            tls_client_key=str(self._dask.private_key), require_encryption=True,
        )  # fmt: skip


def _places(worker: dict[str, Any], needs: dict[str, float]) -> int:
    """Jobs that a worker can run side by side: as many as it has threads, and resources for.

    >>> _places({"nthreads": 4, "resources": {"gpu": 1}}, {"gpu": 1}), _places({"nthreads": 4, "resources": {}}, {})
    (1, 4)
    """
    have = worker.get("resources") or {}
    return int(min([worker["nthreads"], *(have.get(name, 0) // need for name, need in needs.items() if need)]))
