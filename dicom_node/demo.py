"""`prognode demo`: a node, a test PACS and one patient on loopback, and what a person gets to see in the end."""

import os
import shutil
import sys
import time
from pathlib import Path

from pydicom import dcmread

from analysis.contract import REASONS, RESEARCH_USE, SYNTHETIC_WARNING, JobResult, Outcome, wording
from config.clinical import Clinical
from config.settings import Node, Peer, Planning, Settings
from dicom_node import deliver
from dicom_node.compose import PAGE_PICTURES
from dicom_node.demo_pacs import DemoPacs
from dicom_node.headers import UnreadableHeader, data_set_digest, read
from dicom_node.job import Runner, run_tool
from dicom_node.receive import Receiver
from dicom_node.spool import Spool
from dicom_node.store import Store
from dicom_node.worker import Worker
from dicom_node.workitem import Retryable, State, WorkItem
from models.bundle import Bundle
from reports.words import percent

MARK = ".prognode-demo"
PATIENCE_SECONDS = 900.0
SETTLED_SECONDS = 5.0  # everything that was sent has been planned by then
NEXT = """
What next: {look}. With DICOM of your own: make demo INPUT=DIR. For a node of your own:
  . .venv/bin/activate
  prognode config init                        # prognode.toml, a settings file to begin with
  prognode check --config prognode.toml       # then: prognode serve --config prognode.toml
README.md says how it goes on."""
_ENDED = (State.COMPLETED, State.FAILED, State.CANCELED)


class DemoError(Exception):
    """The demo cannot go on; `code` is the exit status."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


def demo(folder: Path, source: Path | None, bundle: Bundle) -> None:
    """Run the road once and print the result.

    Raises
    ------
    DemoError
        With what went wrong and what to do.
    """
    _fresh(folder)
    patient = source if source is not None else _synthetic_patient(folder / "patient")
    files = _sendable(patient)
    table = next(iter(sorted((folder / "patient").glob("*.csv"))), None) if source is None else None
    _say(f"{len(files)} DICOM objects to send from {patient}")
    with DemoPacs(folder / "pacs", "DEMO_PACS") as pacs:
        settings = Settings(
            node=Node(host="127.0.0.1", port=0, spool=folder / "spool", site="demo"),
            peers=(
                Peer("DEMO_CT", sends=True),
                Peer("DEMO_PACS", host="127.0.0.1", port=pacs.port, sends=False, receives_results=True),
            ),
            # The sender is ours: once it is silent, nothing more will come.
            plan=Planning(quiet_seconds=2.0, missing_instances_hours=0.0),
            clinical=Clinical(table=table),
        )
        spool = Spool(settings.node.spool)
        spool.create()
        worker = Worker(settings, spool, bundle, Runner(spool, settings.job, bundle))
        receiver = Receiver(settings, spool)
        receiver.start()
        pacs.report_to = ("127.0.0.1", receiver.port)  # where it reports storage commitment
        worker.start()
        try:
            _send(files, receiver.port, settings)
            items = _watch(spool)
        finally:
            receiver.stop()
            worker.stop()
    _tell(items, spool, folder, bundle)


def _fresh(folder: Path) -> None:
    """Empty the demo's folder, but only one that a demo has made."""
    if folder.exists() and any(folder.iterdir()) and not (folder / MARK).exists():
        raise DemoError(f"{folder}: holds files of somebody else; give another --folder", os.EX_CANTCREAT)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / MARK).touch()


def _synthetic_patient(folder: Path) -> Path:
    _say("drawing a synthetic patient (CT and RTSTRUCT) ...")
    code = run_tool(
        "analysis.train",
        ["synth", "1", "--out", str(folder), "--matrix", "256", "--slices", "80", "--slice-mm", "2.5", "--seed", "7"],
    )
    if code != os.EX_OK:
        raise DemoError("the synthetic patient could not be made (see above)", code)
    return folder


def _sendable(folder: Path) -> list[Path]:
    """CT and contour objects under a folder; anything else is left out, as a modality would."""
    found = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        try:
            instance = read(path, data_set_digest(path))
        except UnreadableHeader:
            continue
        if instance.is_ct or instance.is_roi:
            found.append(path)
    if not found:
        raise DemoError(f"{folder}: no CT, RTSTRUCT or SEG here; give a folder that has them", os.EX_NOINPUT)
    return found


def _send(files: list[Path], port: int, settings: Settings) -> None:
    """Be the modality: one association for everything."""
    node = Peer(settings.node.ae_title, host="127.0.0.1", port=port)
    modality = Settings(node=Node(ae_title="DEMO_CT"))
    documents = []
    for path in files:
        instance = read(path, data_set_digest(path))
        variant = deliver.Variant(instance.sop_class_uid, instance.sop_instance_uid, path)
        documents.append(deliver.Document(path.name, (variant,)))
    start = time.perf_counter()
    try:
        answers = deliver.send(node, documents, modality)
    except Retryable as error:
        raise DemoError(f"{error}; {error.hint}", os.EX_UNAVAILABLE) from error
    refused = [answer for answer in answers if answer.status != 0]
    _say(f"C-STORE: {len(answers) - len(refused)} accepted in {time.perf_counter() - start:.1f} s")
    for answer in refused[:5]:
        _say(f"  refused: {answer.message}")


def _watch(spool: Spool) -> list[WorkItem]:
    """Show the states until every work item has come to its end."""
    store = Store.open(spool.store)
    start, shown = time.monotonic(), ""
    try:
        while time.monotonic() - start < PATIENCE_SECONDS:
            items = [item for item in store.items(limit=1000) if item.state is not State.CANCELED]
            line = ", ".join(f"{item.state}" + (f" ({item.reason})" if item.reason else "") for item in reversed(items))
            if line != shown:
                _say(f"{time.monotonic() - start:6.1f} s  {line or 'receiving'}")
                shown = line
            working = [item for item in items if item.state not in _ENDED and item.roi_sop_instance_uid is not None]
            if items and not working and time.monotonic() - start > SETTLED_SECONDS:
                return list(reversed(items))
            time.sleep(0.1)
    finally:
        store.close()
    raise DemoError("the work did not end in time; see the log above", os.EX_TEMPFAIL)


def _tell(items: list[WorkItem], spool: Spool, folder: Path, bundle: Bundle) -> None:
    failed = shown_any = False
    for number, item in enumerate(items, 1):
        if item.state is State.FAILED or item.key is None:
            failed |= item.state is State.FAILED
            text = wording(item.reason)
            _say(f"\nwork item {item.id}: {item.state} {f'- {text.sentence} {text.remedy}' if text else ''}")
            continue
        result = JobResult.model_validate_json((spool.results(item.key, "analysis") / "result.json").read_bytes())
        _say("\n" + table(result))
        for picture in PAGE_PICTURES:
            source, shown = spool.results(item.key, "report") / picture, folder / f"{number}-{picture}"
            if source.is_file():
                shown_any = True
                shutil.copyfile(source, shown)
                _say(f"page as a picture    {shown}")
    for path in _collect(items, spool, folder):
        _say(f"object in the PACS   {path}")
    if bundle.manifest.synthetic:
        _say(f"bundle {bundle.manifest.name}: {SYNTHETIC_WARNING}")
    if failed:
        raise DemoError("a work item failed; see the log above", os.EX_SOFTWARE)
    look = "look at the pages above" if shown_any else "send a contour with the CT: without one there is no result"
    _say(NEXT.format(look=look))


def _collect(items: list[WorkItem], spool: Spool, folder: Path) -> list[str]:
    """Copy what the PACS has filed under names that a person can read."""
    filed = {
        str(dcmread(path, specific_tags=["SOPInstanceUID"]).SOPInstanceUID): path
        for path in (folder / "pacs").glob("*.dcm")
    }
    store = Store.open(spool.store)
    shown = []
    for number, item in enumerate(items, 1):
        target = folder / "objects" / str(number)
        for row in store.deliveries.of_item(item.id):
            if row.sop_instance_uid in filed:
                target.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(filed[row.sop_instance_uid], target / f"{row.document}.dcm")
                shown.append(str(target / f"{row.document}.dcm"))
    store.close()
    return shown


def table(result: JobResult) -> str:
    """The answer as a short table, or the sentence why there is none."""
    if result.outcome is Outcome.NOT_SCORED or result.sub_model is None:
        text = REASONS[result.reason] if result.reason else None
        detail = f" ({result.reason_detail})" if result.reason_detail else ""
        return f"NOT SCORED: {text.sentence if text else ''}{detail}\n{text.remedy if text else ''}\n{RESEARCH_USE}"
    groups = {group.endpoint: group.group for group in result.groups}
    lines = [f"{'endpoint':<10}{'horizon':<11}{'event probability':<24}{'risk group':<12}sub-model"]
    model = " + ".join(result.sub_model.modalities)
    for score in result.scores:
        low, high = percent(score.lower).removesuffix(" %"), percent(score.upper)
        interval = f"{percent(score.event_probability)} ({low} to {high})"
        lines.append(
            f"{score.endpoint:<10}{score.horizon_months:>2} months  {interval:<24}{groups[score.endpoint]:<12}{model}"
        )
    level = result.scores[0].interval_level
    lines.append(f"event: death (OS), progression or death (PFS); {level:.0%} bootstrap interval")
    lines.append(RESEARCH_USE)
    return "\n".join(lines)


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
