"""Orthanc for the end-to-end tests, in a network namespace of its own: its DICOM port binds every interface.

The calling thread enters the namespace and leaves it at the end; children and threads that it starts meanwhile (the
node, storescu, a listener) live in there with Orthanc, where there is nothing but a loopback interface.
"""

import ctypes
import json
import os
import shutil
import subprocess
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

CLONE_NEWNET = 0x40000000
HTTP_PORT, DICOM_PORT, NODE_PORT = 8042, 4242, 11112  # free for sure: nobody else is in the namespace
AE_TITLE = "ORTHANC"
DICOMWEB = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")  # Debian: orthanc-dicomweb

# What a hospital's PACS does by a rule: CT and contours go to the node, but not what the node itself has sent.
FORWARD_INPUTS = """
function OnStoredInstance(instanceId, tags, metadata, origin)
  local own = origin['RequestOrigin'] == 'DicomProtocol' and origin['RemoteAet'] == 'PROGNODE'
  if not own and (tags['Modality'] == 'CT' or tags['Modality'] == 'RTSTRUCT') then
    SendToModality(instanceId, 'PROGNODE')
  end
end
"""
# What a careless rule does.
FORWARD_EVERYTHING = """
function OnStoredInstance(instanceId, tags, metadata, origin)
  SendToModality(instanceId, 'PROGNODE')
end
"""


def skip_unless_possible() -> None:
    if shutil.which("Orthanc") is None:
        pytest.skip("Orthanc is not here (Debian: orthanc)")
    if os.geteuid() != 0:
        pytest.skip("a network namespace for Orthanc needs root")
    probe = ["unshare", "-n", "ip", "link", "set", "lo", "up"]
    if shutil.which("ip") is None or subprocess.run(probe, capture_output=True, check=False).returncode != 0:
        pytest.skip("this kernel or container does not allow a network namespace")


@contextmanager
def namespace() -> Iterator[None]:
    """The calling thread is in a fresh network namespace with a loopback interface inside the block."""
    holder = subprocess.Popen(
        ["unshare", "-n", "sh", "-c", "ip link set lo up && echo up && exec sleep 3600"], stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"up\n"
        with open("/proc/thread-self/ns/net", "rb") as home, open(f"/proc/{holder.pid}/ns/net", "rb") as away:
            _enter(away.fileno())
            try:
                yield
            finally:
                _enter(home.fileno())
    finally:
        holder.kill()
        holder.communicate(timeout=30)


def _enter(descriptor: int) -> None:
    """setns(2); `os.setns` came with Python 3.12."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


class Orthanc:
    """A running Orthanc, seen over its REST API."""

    def __init__(self, folder: Path, lua: str) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        (folder / "forward.lua").write_text(lua)
        (folder / "orthanc.json").write_text(json.dumps(_configuration(folder)))
        with (folder / "orthanc.log").open("wb") as log:
            self.process = subprocess.Popen(
                ["Orthanc", str(folder / "orthanc.json")], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        self._wait()

    def _wait(self) -> None:
        end = time.monotonic() + 60
        while time.monotonic() < end and self.process.poll() is None:
            try:
                self.get("/system")
            except OSError:
                time.sleep(0.05)
            else:
                return
        self.stop()
        raise AssertionError((self.folder / "orthanc.log").read_text(errors="replace")[-3000:])

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(timeout=30)

    def get(self, path: str) -> Any:
        return json.loads(self.raw(path))

    def raw(self, path: str, data: bytes | None = None, accept: str = "*/*") -> bytes:
        request = urllib.request.Request(f"http://127.0.0.1:{HTTP_PORT}{path}", data=data, headers={"Accept": accept})
        # No proxy of the environment has a business inside the namespace.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=60) as answer:
            return bytes(answer.read())

    def delete(self, path: str) -> None:
        request = urllib.request.Request(f"http://127.0.0.1:{HTTP_PORT}{path}", method="DELETE")
        urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=60).close()

    def upload(self, path: Path) -> None:
        self.raw("/instances", path.read_bytes())

    def send_series(self, series: str) -> None:
        """Send a series to the node, and wait for the answer; raises HTTPError when the node does not take it."""
        self.raw("/modalities/PROGNODE/store", json.dumps({"Resources": [series], "Synchronous": True}).encode())

    def find(self, level: str, **tags: str) -> list[str]:
        question = {"Level": level, "Query": tags, "CaseSensitive": True}
        return list(json.loads(self.raw("/tools/find", json.dumps(question).encode())))

    def series_of(self, study_instance_uid: str) -> list[dict[str, Any]]:
        return [self.get(f"/series/{one}") for one in self.find("Series", StudyInstanceUID=study_instance_uid)]

    def modalities(self, study_instance_uid: str) -> dict[str, int]:
        """Series by modality."""
        return dict(Counter(one["MainDicomTags"]["Modality"] for one in self.series_of(study_instance_uid)))

    def files(self, study_instance_uid: str, modality: str, folder: Path) -> list[Path]:
        """The instances of a modality, as Part 10 files."""
        folder.mkdir(parents=True, exist_ok=True)
        paths = []
        for series in self.series_of(study_instance_uid):
            if series["MainDicomTags"]["Modality"] == modality:
                for instance in series["Instances"]:
                    paths.append(folder / f"{modality}-{instance}.dcm")
                    paths[-1].write_bytes(self.raw(f"/instances/{instance}/file"))
        return paths

    def jobs(self) -> Counter[str]:
        """Orthanc's own jobs (forwarding) by state."""
        return Counter(str(job["State"]) for job in self.get("/jobs?expand"))


def _configuration(folder: Path) -> dict[str, Any]:
    return {
        "Name": "e2e",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "Plugins": [str(DICOMWEB)] if DICOMWEB.exists() else [],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        "LuaScripts": [str(folder / "forward.lua")],
        "HttpPort": HTTP_PORT,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomAet": AE_TITLE,
        "DicomPort": DICOM_PORT,
        "DicomCheckCalledAet": True,
        "DicomAlwaysAllowStore": False,
        "DicomAlwaysAllowEcho": True,
        "DicomModalities": {
            "PROGNODE": {
                "AET": "PROGNODE", "Host": "127.0.0.1", "Port": NODE_PORT,
                "AllowStore": True, "AllowFind": True, "AllowEcho": True, "AllowStorageCommitment": True,
            },
        },
        "JobsHistorySize": 1000,
        "StableAge": 1,
    }  # fmt: skip


@contextmanager
def orthanc(folder: Path, lua: str = FORWARD_INPUTS) -> Iterator[Orthanc]:
    """Orthanc in a namespace that the calling thread is in as long as the block lasts."""
    skip_unless_possible()
    with namespace():
        running = Orthanc(folder, lua)
        try:
            yield running
        finally:
            running.stop()
