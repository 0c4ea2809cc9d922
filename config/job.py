"""Settings of the analysis: what runs a job, and its limits; and of the cluster, where one runs them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

_RESOURCE = re.compile(r"([A-Za-z][A-Za-z0-9_]{0,31})=(\d+(?:\.\d+)?(?:e\d{1,2})?)")
_IMAGE = re.compile(r"(?:[a-z0-9][a-z0-9._/:-]{0,200}@)?sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Dask:
    """The cluster of `executor = "dask"`: the address of its scheduler, and how this node makes itself known to it.

    `transfer`: "bytes" sends a job's files to the worker, "shared" expects the spool there under the same path.
    `resources`: what of a worker a job takes, as the workers were started with, such as "gpu=1" or "memory=8e9".
    """

    scheduler: str = ""
    certificate: Path | None = None
    private_key: Path | None = None
    ca: Path | None = None
    insecure: bool = False
    transfer: Literal["bytes", "shared"] = "bytes"
    resources: tuple[str, ...] = ()

    @property
    def needs(self) -> dict[str, float]:
        """`resources` as numbers.

        >>> Dask(resources=("gpu=1", "memory=8e9")).needs
        {'gpu': 1.0, 'memory': 8000000000.0}
        """
        found = [_RESOURCE.fullmatch(text) for text in self.resources]
        return {match[1]: float(match[2]) for match in found if match}


@dataclass(frozen=True)
class Job:
    """How the analysis runs. `isolation = "required"`: not where one of the sandbox's promises cannot be kept.

    `at_once`: jobs that run side by side; 0: as many as the executor has room for when the process starts.
    `image`, `engine`: of the executor "container"; the image by its digest, so that no other can take its place.
    """

    executor: Literal["process", "container", "systemd", "dask"] = "process"
    isolation: Literal["required", "preferred"] = "preferred"
    at_once: int = 0
    memory_bytes: int = 8_000_000_000
    cpu_seconds: int = 1800
    wall_clock_seconds: float = 900.0
    output_bytes: int = 1_000_000_000
    attempts: int = 3
    image: str = ""
    engine: Literal["auto", "podman", "docker"] = "auto"
    dask: Dask = field(default_factory=Dask)

    @property
    def answer_seconds(self) -> float:
        """Until whoever waits for a job gives it up; in a cluster it may wait for its turn, and run again elsewhere.

        >>> Job().answer_seconds, Job(executor="dask").answer_seconds
        (900.0, 3600.0)
        """
        return self.wall_clock_seconds * (4 if self.executor == "dask" else 1)


def mistakes(job: Job) -> Iterator[str]:
    """An image that is not fixed by its digest, and a cluster unusable or open to anybody."""
    if (job.executor == "container" or job.image) and not _IMAGE.fullmatch(job.image):
        yield (
            f"'job.image' {job.image!r} is no digest: write NAME@sha256:... as `podman images --digests` shows it, "
            "or the image's ID as sha256:..."
        )
    dask = job.dask
    for text in dask.resources:
        if not _RESOURCE.fullmatch(text):
            yield f"'job.dask.resources': {text!r} is no NAME=NUMBER, such as 'gpu=1'"
    if job.executor != "dask":
        return
    scheme, host = _address(dask.scheduler)
    if not scheme:
        yield f"'job.dask.scheduler' {dask.scheduler!r}: write tls://HOST:PORT"
    files = (dask.certificate, dask.private_key, dask.ca)
    if scheme == "tls" and None in files:
        yield "'job.dask.scheduler' with tls:// needs certificate, private_key and ca in [job.dask]"
    if scheme == "tcp" and host not in ("127.0.0.1", "::1", "localhost") and not dask.insecure:
        yield (
            "'job.dask.scheduler' without TLS: whoever reaches a scheduler runs code on it and sees the images; "
            "use tls:// with certificates, or set insecure = true on a network that is yours alone"
        )


def _address(text: str) -> tuple[str, str]:
    """Scheme and host of a scheduler's address, or nothing."""
    try:
        parts = urlsplit(text)
        scheme, host, port = parts.scheme, parts.hostname, parts.port
    except ValueError:
        return "", ""
    return (scheme, host) if scheme in ("tls", "tcp") and host and port else ("", "")
