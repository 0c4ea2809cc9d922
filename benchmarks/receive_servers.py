"""Receivers of `benchmarks.receive`: each a process on a port of its own, with everything that it keeps in a folder."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests import wire
from tests.certificates import Authority
from tests.network import NODE, SENDER

SETTINGS = """[node]
ae_title = "{node}"
port = {port}
spool = "{folder}/spool"
[receive]
reserve_disk_bytes = 0
fast = {fast}
[storage]
refuse_free_percent = 0.0
[[peers]]
ae_title = "{sender}"
{tls}"""
ORTHANC = {"HttpServerEnabled": False, "RemoteAccessAllowed": True, "DicomAet": NODE, "DicomCheckCalledAet": False}
QRSCP = """NetworkTCPPort = {port}
MaxPDUSize = 131072
MaxAssociations = 16
HostTable BEGIN
HostTable END
VendorTable BEGIN
VendorTable END
AETable BEGIN
{node} {folder} RW (5000, 4096mb) ANY
AETable END
"""


@dataclass
class Server:
    """How to start one: `command` gets a folder and a port."""

    name: str
    command: Callable[[Path, int], list[str]]
    one_at_a_time: bool = False  # takes the next association only after the one before
    tls: bool = False
    environment: Mapping[str, str] = field(default_factory=lambda: {"TCP_NODELAY": "1"})
    port: int = 0
    folder: Path = Path()
    process: "subprocess.Popen[bytes] | None" = None

    def start(self, folder: Path) -> None:
        """Raises RuntimeError when it does not listen."""
        self.folder, self.port = folder, free_port()
        folder.mkdir(parents=True)
        with (folder / "server.log").open("wb") as log:
            self.process = subprocess.Popen(
                self.command(folder, self.port), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder,
                env={**os.environ, "TMPDIR": str(folder), **self.environment},
            )  # fmt: skip
        end = time.monotonic() + 30
        while time.monotonic() < end and self.process.poll() is None:
            try:
                wire.connect(self.port).close()
            except OSError:
                time.sleep(0.05)
            else:
                return
        raise RuntimeError(f"{self.name}: {(folder / 'server.log').read_text(errors='replace')[-2000:]}")

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def peak_bytes(self) -> int:
        """The most memory that its process has had (VmHWM)."""
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024

    def cpu_seconds(self) -> float:
        """CPU time of its process and of the children that have ended and are running."""
        assert self.process is not None
        ticks = 0
        for pid in [self.process.pid, *_children(self.process.pid)]:
            with contextlib.suppress(OSError):
                values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                ticks += sum(map(int, values[11:15]))  # utime, stime, and those of its ended children
        return ticks / os.sysconf("SC_CLK_TCK")


def _children(pid: int) -> list[int]:
    with contextlib.suppress(OSError):
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _ours(*start: str, fast: bool = True, tls: bool = False) -> Callable[[Path, int], list[str]]:
    def command(folder: Path, port: int) -> list[str]:
        more = ""
        if tls:
            issued = Authority(folder / "ca").issue("node")
            more = f'[tls]\nlisten = "only"\nport = {port}\ncertificate = "{issued.certificate}"\n'
            more += f'private_key = "{issued.key}"\n'
        text = SETTINGS.format(node=NODE, sender=SENDER, port=port, folder=folder, fast=str(fast).lower(), tls=more)
        (folder / "prognode.toml").write_text(text)
        return [sys.executable, *start, "receive", "--config", str(folder / "prognode.toml")]

    return command


def _storescp(*options: str, tls: bool = False) -> Callable[[Path, int], list[str]]:
    def command(folder: Path, port: int) -> list[str]:
        (folder / "kept").mkdir()
        more = list(options)
        if tls:
            issued = Authority(folder / "ca").issue("peer")
            more += ["+tls", str(issued.key), str(issued.certificate), "-ic"]
        return ["storescp", "+B", "-pdu", "131072", "-od", str(folder / "kept"), *more, str(port)]

    return command


def _dcmqrscp(folder: Path, port: int) -> list[str]:
    (folder / "kept").mkdir()
    (folder / "qr.cfg").write_text(QRSCP.format(port=port, node=NODE, folder=folder / "kept"))
    return ["dcmqrscp", "-c", str(folder / "qr.cfg")]


def _orthanc(*, synchronous: bool) -> Callable[[Path, int], list[str]]:
    def command(folder: Path, port: int) -> list[str]:
        place = str(folder / "kept")
        text = ORTHANC | {"StorageDirectory": place, "IndexDirectory": place, "DicomPort": port}
        text["SyncStorageArea"] = synchronous
        (folder / "orthanc.json").write_text(json.dumps(text))
        return ["Orthanc", str(folder / "orthanc.json")]

    return command


def _pynetdicom(folder: Path, port: int) -> list[str]:
    (folder / "kept").mkdir()
    return [sys.executable, "-m", "pynetdicom", "storescp", str(port), "-od", str(folder / "kept"), "-q"]


DURABLE, UNSAFE, STOCK = "Prognode", "Prognode, not durable", "Prognode, fast = false"
STORESCP, FORK, ORTHANC_NAME = "storescp", "storescp --fork", "Orthanc"
OURS_TLS, UNSAFE_TLS, STORESCP_TLS = "Prognode, TLS", "Prognode, TLS, not durable", "storescp --fork, TLS"
NODE_ITSELF = ("-c", "from dicom_node.cli import app; app()")
CARELESS = ("-m", "benchmarks.receive_child")


def servers() -> dict[str, Server]:
    """All that can be compared, by name."""
    made = [
        Server(DURABLE, _ours(*NODE_ITSELF)),
        Server(UNSAFE, _ours(*CARELESS)),
        Server(STOCK, _ours(*NODE_ITSELF, fast=False)),
        Server(STORESCP, _storescp(), one_at_a_time=True),
        Server(FORK, _storescp("--fork")),
        Server("dcmqrscp", _dcmqrscp),
        Server(ORTHANC_NAME, _orthanc(synchronous=True)),
        Server("Orthanc, sync off", _orthanc(synchronous=False)),
        Server("pynetdicom storescp", _pynetdicom),
        Server(OURS_TLS, _ours(*NODE_ITSELF, tls=True), tls=True),
        Server(UNSAFE_TLS, _ours(*CARELESS, tls=True), tls=True),
        Server(STORESCP_TLS, _storescp("--fork", tls=True), tls=True),
    ]
    root = str(Path(__file__).resolve().parents[1])
    for server in made:
        server.environment = {**server.environment, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    return {server.name: server for server in made}
