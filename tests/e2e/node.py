"""A real node for the end-to-end tests: `prognode serve` as a child with settings of its own, and eyes on its spool."""

import contextlib
import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, TypeVar

from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import UID

from config.settings import load
from dicom_node.deliveries import Delivery
from dicom_node.demo_pacs import Commitment, DemoPacs
from dicom_node.score import REPORTS, score
from dicom_node.spool import Spool
from dicom_node.store import Store
from dicom_node.workitem import State, WorkItem
from models.bundle import DEMO
from models.bundle import load as load_bundle
from tests.validators import dciodvfy

PROGNODE = Path(sys.executable).with_name("prognode")
SETTINGS, LOG = "prognode.toml", "node.log"
NODE, SENDER, PACS = "PROGNODE", "MODALITY", "DEMOPACS"
PATIENCE_SECONDS = 120.0
ENDED = (State.COMPLETED, State.FAILED)
SCORED_OBJECTS = {
    "risk-sr": 1, "radiomics-sr": 1, "page-1": 1, "page-2": 1, "segmentation": 1, "presentation-state": 1,
}  # fmt: skip
NOT_SCORED_OBJECTS = {"risk-sr": 1, "page-1": 1}
# Seconds instead of minutes: an outage test must not wait as a hospital can.
QUICK = {
    "first_delay_seconds": 0.2, "delay_factor": 1.5, "longest_delay_seconds": 1.0, "commitment_wait_seconds": 3.0,
    "connect_timeout_seconds": 2.0,
}  # fmt: skip
PLENTY = {"warn_free_bytes": 0, "warn_free_percent": 0.0, "refuse_free_percent": 0.0}  # of this machine's disk
_TITLES = {"126001": "risk-sr", "126000": "radiomics-sr"}

T = TypeVar("T")


def wait_for(look: Callable[[], T], what: str, seconds: float = PATIENCE_SECONDS, folder: Path | None = None) -> T:
    """The first true answer of `look`; fails with what the node logged last when none comes."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        answer = look()
        if answer:
            return answer
        time.sleep(0.05)
    raise AssertionError(f"{what}: not within {seconds:.0f} s\n{log_of(folder)[-3000:] if folder else ''}")


def peer(ae_title: str, port: int = 104, **more: Any) -> dict[str, Any]:
    return {"ae_title": ae_title, "host": "127.0.0.1", "port": port, **more}


def destination(ae_title: str, port: int, **more: Any) -> dict[str, Any]:
    return peer(ae_title, port, sends=False, receives_results=True, **more)


def write_settings(folder: Path, *peers: dict[str, Any], port: int = 0, **sections: dict[str, Any]) -> Path:
    """Settings of a node in `folder` that knows MODALITY and the given peers. Sections are tables of the TOML file."""
    folder.mkdir(parents=True, exist_ok=True)
    tables: dict[str, dict[str, Any]] = {
        "node": {"ae_title": NODE, "port": port, "spool": "spool", "site": "e2e"} | sections.pop("node", {}),
        "receive": {"reserve_disk_bytes": 0} | sections.pop("receive", {}),
        "plan": {"quiet_seconds": 2.0} | sections.pop("plan", {}),
        "deliver": QUICK | sections.pop("deliver", {}),
        "storage": PLENTY | sections.pop("storage", {}),
        **sections,
    }
    lines = [line for name, table in tables.items() for line in ("", f"[{name}]", *_pairs(table))]
    lines += [line for one in (peer(SENDER), *peers) for line in ("", "[[peers]]", *_pairs(one))]
    path = folder / SETTINGS
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    load(path)  # a slip in a test shows here, not as a node that does not start
    return path


def _pairs(table: dict[str, Any]) -> list[str]:
    return [f"{key} = {_toml(value)}" for key, value in table.items()]


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_toml, value))}]"
    return str(value) if isinstance(value, (int, float)) else f'"{value}"'


class Node:
    """A running `prognode serve` (or another command); its spool and log stay in `folder` when it is gone."""

    def __init__(self, folder: Path, command: Sequence[str] = ("serve",), program: Sequence[str] | None = None) -> None:
        self.folder = folder
        with (folder / LOG).open("ab") as log:
            started = log.tell()
            self.process = subprocess.Popen(
                [*(program or [str(PROGNODE)]), *command, "--config", str(folder / SETTINGS)],
                stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            )  # fmt: skip
        try:
            found = wait_for(lambda: self._listening(started), "the node listens", folder=folder)
        except AssertionError:
            self.kill()
            raise
        self.port = int(found.group(1))

    def _listening(self, started: int) -> "re.Match[str] | None":
        assert self.process.poll() is None, f"the node ended: {log_of(self.folder)[started:]}"
        return re.search(r"listening as \S+ on \S+:(\d+)", log_of(self.folder)[started:])

    def kill(self) -> None:
        """SIGKILL: no handler, no clean-up, as a power cut or the kernel's out-of-memory killer."""
        self.process.kill()
        self.process.wait(timeout=30)

    def stop(self) -> int:
        """SIGTERM, as systemd does."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=60)


@contextmanager
def serving(folder: Path, **options: Any) -> Iterator[Node]:
    """A node with the settings in `folder`, ended at the end."""
    node = Node(folder, **options)
    try:
        yield node
    finally:
        if node.process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                node.stop()
            node.kill()


@contextmanager
def node_and_pacs(
    folder: Path, pacs_folder: Path, *, commitment: Commitment = "same", **sections: Any
) -> Iterator[tuple[Node, DemoPacs]]:
    """A node that delivers to a well-behaved test PACS; "same" commitment is the quickest."""
    with DemoPacs(pacs_folder, PACS, commitment=commitment) as pacs:
        write_settings(folder, destination(PACS, pacs.port), **sections)
        with serving(folder) as node:
            pacs.report_to = ("127.0.0.1", node.port)
            yield node, pacs


# -- the sender ------------------------------------------------------------------------------------------------


def storescu(port: int, paths: Sequence[Path], *options: str) -> "subprocess.CompletedProcess[str]":
    """DCMTK's storescu, one association for all, offering just the contexts that the files need."""
    command = ["storescu", "-R", "-aet", SENDER, "-aec", NODE, *options, "127.0.0.1", str(port), *map(str, paths)]
    return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=120, check=False)


def send(port: int, paths: Sequence[Path]) -> None:
    """One association; every object must be taken."""
    done = storescu(port, paths)
    assert done.returncode == 0, done.stderr


def send_singly(port: int, paths: Sequence[Path]) -> None:
    """One association per object."""
    for path in paths:
        send(port, [path])


def echo(port: int) -> bool:
    command = ["echoscu", "-aet", SENDER, "-aec", NODE, "127.0.0.1", str(port)]
    return subprocess.run(command, capture_output=True, timeout=30, check=False).returncode == 0


# -- what the node knows ---------------------------------------------------------------------------------------


def log_of(folder: Path) -> str:
    path = folder / LOG
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def spool_of(folder: Path) -> Spool:
    return Spool(folder / "spool")


@contextmanager
def store_of(folder: Path) -> Iterator[Store]:
    store = Store.open(spool_of(folder).store)
    try:
        yield store
    finally:
        store.close()


def items_of(folder: Path, study: str | None = None) -> list[WorkItem]:
    """Work items but the canceled, oldest first."""
    with store_of(folder) as store:
        return [item for item in reversed(store.items(study)) if item.state is not State.CANCELED]


def deliveries_of(folder: Path, item: WorkItem, ae_title: str | None = None) -> list[Delivery]:
    with store_of(folder) as store:
        rows = store.deliveries.of_item(item.id)
    return [row for row in rows if ae_title in (None, row.destination)]


def events_of(folder: Path, item: WorkItem) -> list[str]:
    with store_of(folder) as store:
        return [str(event["name"]) for event in store.details(item.id)["events"]]


def ended(folder: Path, study: str | None = None, count: int = 1, seconds: float = PATIENCE_SECONDS) -> list[WorkItem]:
    """Wait until `count` work items (of a study) have come to their end."""

    def look() -> list[WorkItem]:
        items = items_of(folder, study)
        return items if len(items) >= count and all(item.state in ENDED for item in items) else []

    found = wait_for(look, f"{count} work items end", seconds, folder)
    assert len(found) == count, [(item.state, item.reason) for item in found]
    return found


def completed(folder: Path, study: str | None = None) -> WorkItem:
    """Wait for the one work item (of a study) and its proved delivery."""
    (item,) = ended(folder, study)
    assert item.state is State.COMPLETED, f"{item.state} {item.reason}\n{log_of(folder)[-3000:]}"
    return item


def report_digests(folder: Path, item: WorkItem) -> dict[str, str]:
    """SHA-256 of everything in results/<key>/report, by file name."""
    report = spool_of(folder).results(item.key or "", "report")
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(report.iterdir())}


def undisturbed(study: Sequence[Path], moment: float, folder: Path, settings: Path) -> dict[str, str]:
    """What an undisturbed run at that moment writes: `score` on the same objects, with their files' time set to it."""
    source = folder / "in"
    source.mkdir(parents=True)
    nanoseconds = int(Fraction(moment) * 10**9)
    for path in study:
        copy = source / path.name
        copy.write_bytes(path.read_bytes())
        os.utime(copy, ns=(nanoseconds, nanoseconds))
    summary = score(source, folder / "out", load(settings), load_bundle(DEMO))
    (entry,) = summary["work_items"]
    written = (folder / "out" / entry["folder"] / name for name in REPORTS)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in written if path.is_file()}


# -- what the PACS holds ---------------------------------------------------------------------------------------


def kind_of(dataset: Dataset) -> str:
    """Name of one of our documents, from what a PACS can see of it."""
    if dataset.Modality == "SR":
        return _TITLES[dataset.ConceptNameCodeSequence[0].CodeValue]
    page = f"page-{dataset.get('InstanceNumber')}"
    return {"SEG": "segmentation", "OT": page, "PR": "presentation-state", "DOC": "pages-pdf"}[dataset.Modality]


def filed(pacs: DemoPacs, study: str | None = None) -> list[tuple[Dataset, Path]]:
    found = [one for one in pacs.objects() if study in (None, one.study_instance_uid)]
    return [(dcmread(one.path, stop_before_pixels=True), one.path) for one in found]


def kinds_in(pacs: DemoPacs, study: str | None = None) -> dict[str, int]:
    return dict(Counter(kind_of(dataset) for dataset, _ in filed(pacs, study)))


def assert_valid(paths: Sequence[Path]) -> None:
    """No finding of dciodvfy that is not a known one."""
    assert paths
    for path in paths:
        findings = dciodvfy(path)
        assert not findings, f"{UID(dcmread(path, specific_tags=['SOPClassUID']).SOPClassUID).name}: {findings}"


def assert_same_content(pacs: DemoPacs, folder: Path, item: WorkItem) -> None:
    """Each object in the PACS is element for element the one in the node's spool."""
    report = spool_of(folder).results(item.key or "", "report")
    here = {dataset.SOPInstanceUID: dataset for dataset in map(dcmread, report.glob("*.dcm"))}
    there = filed(pacs, item.study_instance_uid)
    assert there
    for dataset, path in there:
        assert dcmread(path) == here[dataset.SOPInstanceUID], kind_of(dataset)
