"""Receivers that are compared: this node, Orthanc, DCMTK's storescp, each as one process with its state in a folder."""

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import time
import urllib.request
from io import BytesIO
from pathlib import Path
from typing import Any

from pydicom import dcmread

from dicom_node.headers import data_set_digest
from dicom_node.spool import Spool
from dicom_node.store import Store
from tests import wire
from tests.e2e.node import Node, peer, write_settings

PORT, HTTP_PORT = 11112, 8042  # free for sure: nobody else is in the namespace
SLOW = "SLOW"  # AE title of what hangs; the others call as MODALITY


class Server:
    """One receiver with everything it keeps in `disk`, and what else it needs in `folder`."""

    name = ""
    settings = ""

    def __init__(self, disk: Path, folder: Path, **settings: Any) -> None:
        """`settings`: sections of this node's; the others run with their defaults."""
        self.disk, self.folder = disk, folder
        self.process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        raise NotImplementedError

    def holds(self, path: Path) -> bool:
        """Whether it knows this object (a file named by its SOP Instance UID) and gives it back whole."""
        raise NotImplementedError

    def files(self) -> list[Path]:
        """Everything that lies where the server keeps objects."""
        raise NotImplementedError

    def torn(self) -> int:
        """How many of the files are no whole objects."""
        return sum(pixels_of(path) is None for path in self.files())

    def start(self) -> None:
        """Raises RuntimeError when it does not listen."""
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder,
                env={**os.environ, "TCP_NODELAY": "1"},
            )  # fmt: skip
        end = time.monotonic() + 60
        while time.monotonic() < end and self.process.poll() is None:
            with contextlib.suppress(OSError):
                wire.connect(PORT).close()
                return
            time.sleep(0.05)
        raise RuntimeError((self.folder / "server.log").read_text(errors="replace")[-2000:])

    @property
    def runs(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        self._end(signal.SIGKILL)

    def _end(self, number: int) -> None:
        if self.process is not None:
            self.process.send_signal(number)
            try:
                self.process.wait(timeout=30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Ours(Server):
    name = "Prognode"
    settings = "prognode receive, defaults but [receive] reserve_disk_bytes = 0"

    def __init__(self, disk: Path, folder: Path, **settings: Any) -> None:
        super().__init__(disk, folder)
        write_settings(folder, peer(SLOW), node={"spool": str(disk / "spool"), "port": PORT}, **settings)

    def start(self) -> None:
        self.process = Node(self.folder, command=("receive",)).process

    def holds(self, path: Path) -> bool:
        spool = Spool(self.disk / "spool")
        uid, digest = path.stem, data_set_digest(path)
        store = Store.open(spool.store)
        try:
            known = store.arrivals.contents({uid: digest})
        finally:
            store.close()
        kept = spool.instance_path(uid, digest)
        return bool(known) and kept.is_file() and data_set_digest(kept) == digest

    def files(self) -> list[Path]:
        spool = Spool(self.disk / "spool")
        return [*spool.root.glob("instances/*/*"), *spool.incoming.iterdir()]


class Orthanc(Server):
    name = "Orthanc"
    settings = "defaults: SyncStorageArea true, OverwriteInstances false, DicomScpTimeout 30, 4 DicomThreadsCount"

    def command(self) -> list[str]:
        place = str(self.disk / "orthanc")
        text = {"StorageDirectory": place, "IndexDirectory": place, "HttpPort": HTTP_PORT, "DicomPort": PORT}
        (self.folder / "orthanc.json").write_text(json.dumps(text))
        return ["Orthanc", str(self.folder / "orthanc.json")]

    def start(self) -> None:
        super().start()
        end = time.monotonic() + 30
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                self._ask("/system")
                return
            time.sleep(0.05)

    def holds(self, path: Path) -> bool:
        uid = path.stem
        with contextlib.suppress(OSError):
            found = json.loads(self._ask("/tools/lookup", uid.encode()))
            return any(pixels_of(BytesIO(self._ask(f"{one['Path']}/file"))) == pixels_of(path) for one in found)
        return False

    def files(self) -> list[Path]:
        files = [path for path in (self.disk / "orthanc").glob("*/*/*") if path.is_file()]
        return [path for path in files if path.read_bytes()[:1] != b"{"]  # "{": its JSON summaries

    def _ask(self, path: str, data: bytes | None = None) -> bytes:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{HTTP_PORT}{path}", data=data, timeout=30) as answer:
            return bytes(answer.read())


class Storescp(Server):
    name = "storescp"
    settings = "defaults but --output-directory: no --fork, no timeout for DIMSE, file names from UIDs"

    def command(self) -> list[str]:
        (self.disk / "storescp").mkdir(exist_ok=True)
        return ["storescp", "-od", str(self.disk / "storescp"), str(PORT)]

    def holds(self, path: Path) -> bool:
        wanted = pixels_of(path)
        return any(pixels_of(kept) == wanted for kept in self.files())

    def files(self) -> list[Path]:
        return list((self.disk / "storescp").iterdir())


SERVERS: tuple[type[Server], ...] = (Ours, Orthanc, Storescp)


def pixels_of(source: Path | BytesIO) -> tuple[str, str] | None:
    """SOP Instance UID and digest of the pixels; None for what is no whole image."""
    try:
        dataset = dcmread(source)
        pixels = dataset.PixelData
        if len(pixels) != dataset.Rows * dataset.Columns * 2:
            return None
        return str(dataset.SOPInstanceUID), hashlib.sha256(pixels).hexdigest()
    except Exception:  # noqa: BLE001 - whatever pydicom says of a torn file
        return None
