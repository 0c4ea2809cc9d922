"""`prognode score`: a folder goes the same road as an association, with no network and nothing left to wait for."""

import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from analysis.contract import FEATURES_FILE, MASK_FILE, RESEARCH_USE, RESULT_FILE, JobResult, wording
from config.settings import Settings
from dicom_node import headers
from dicom_node.bundles import Bundles
from dicom_node.compose import DOCUMENTS, PAGE_PICTURES
from dicom_node.elements import UnreadableHeader
from dicom_node.identity import Identity
from dicom_node.instance import Instance
from dicom_node.job import Runner
from dicom_node.schedule import Scheduler
from dicom_node.spool import Spool, link_or_copy
from dicom_node.store import Store
from dicom_node.worker import Worker
from dicom_node.workitem import State, WorkItem
from models.bundle import Bundle

SUMMARY = "summary.json"
_KEY, _FOLDER = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{16}")
PATIENCE = 100  # times that work may be put off before it is given up
_WORKING = (State.SCHEDULED, State.ANALYSED, State.REPORTED)
RESULTS = (RESULT_FILE, FEATURES_FILE, MASK_FILE)
REPORTS = (*(f"{name}.dcm" for name in DOCUMENTS), *PAGE_PICTURES)


class NoInput(Exception):
    """There is nothing to score; the text names the folder and the remedy."""


def score(folder: Path, out: Path, settings: Settings, bundle: Bundle) -> dict[str, Any]:
    """Score every contour in `folder`; write a sub-folder per work item and summary.json into `out`.

    Times in the reports are the newest modification time among the inputs, so that the same folder gives the same
    bytes again.

    Returns
    -------
    dict
        What summary.json holds: `research_use`, the words; `work_items`, and `ignored` files with the reason.

    Raises
    ------
    NoInput
        When there is no such folder, or no file in it.
    OSError
        When `out` cannot be written.
    """
    inside = (path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else ()
    paths = sorted(path for path in inside if not _is_ours(path))
    if not folder.is_dir():
        raise NoInput(f"{folder}: no such folder; give the one with the CT and its RTSTRUCT or SEG")
    if not paths:
        raise NoInput(f"{folder}: no files here; give a folder with the CT and its RTSTRUCT or SEG")
    moment = max(path.stat().st_mtime for path in paths)
    out.mkdir(parents=True, exist_ok=True)
    offline = replace(settings, peers=(), rules=(), hl7_peers=(), fhir_servers=())  # nobody has called
    with tempfile.TemporaryDirectory(dir=out, prefix=".spool-") as scratch:
        spool = Spool(Path(scratch))
        spool.create()
        store = Store.open(spool.store)
        ignored = [
            {"file": str(path.relative_to(folder)), "why": why} for path, why in _take(paths, spool, store, moment)
        ]
        clock = _Clock(moment)
        scheduler = Scheduler(store, spool, offline, Bundles(bundle), clock, final=True)
        while scheduler.take_arrivals():
            pass
        scheduler.refuse_without_contour()
        worker = Worker(offline, spool, bundle, Runner(spool, offline.job, bundle), clock)
        while any(item.state in _WORKING for item in store.items(limit=1_000_000)):
            if not (worker.step_analyse() or worker.step_report() or worker.step_deliver()):
                clock.skip()
                if clock.skipped > PATIENCE:
                    break
        shown = [item for item in reversed(store.items(limit=1_000_000)) if item.state is not State.CANCELED]
        entries = [_entry(item, store, spool, out) for item in shown]
        summary = {"research_use": RESEARCH_USE, "work_items": entries, "ignored": ignored}
        store.close()
    (out / SUMMARY).write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return summary


def _is_ours(path: Path) -> bool:
    """A result of an earlier run, where those lie inside the input folder."""
    if any(part.startswith(".spool-") for part in path.parts):
        return True  # of a run that was killed
    in_results = _FOLDER.fullmatch(path.parent.name) is not None and (path.parent / RESULT_FILE).exists()
    return in_results or path.name == SUMMARY


class _Clock:
    """The moment of the inputs. Where work is put off for later, later comes at once: nobody waits for it."""

    def __init__(self, moment: float) -> None:
        self._moment = moment
        self.skipped = 0

    def __call__(self) -> float:
        return self._moment

    def skip(self) -> None:
        self._moment += 3600.0
        self.skipped += 1


def _take(paths: list[Path], spool: Spool, store: Store, moment: float) -> Iterator[tuple[Path, str]]:
    """Put files into the spool as a receiver would; yields those that were not taken, and why."""
    for path in paths:
        try:
            digest = headers.data_set_digest(path)
            instance, identity = headers.read_with_identity(path, digest)
        except UnreadableHeader as error:
            yield path, str(error)
            continue
        if not (instance.is_ct or instance.is_roi):
            yield path, "neither CT nor RTSTRUCT nor SEG"
            continue
        _keep(path, instance, identity, spool, store, moment)
        if instance.own:
            yield path, "made by Prognode itself"


def _keep(path: Path, instance: Instance, identity: Identity, spool: Spool, store: Store, moment: float) -> None:
    incoming = spool.new_incoming()
    link_or_copy(path.resolve(), incoming)
    spool.keep_instance(incoming, instance.sop_instance_uid, instance.digest)
    store.arrivals.add(instance, "score", moment, identity)


def _entry(item: WorkItem, store: Store, spool: Spool, out: Path) -> dict[str, Any]:
    key = item.key or ""
    entry: dict[str, Any] = {
        "key": key,
        "outcome": item.outcome or "FAILED",
        "reason": item.reason,
        "folder": None,
        "revision": item.revision,
        "study_instance_uid": item.study_instance_uid,
        "ct_series_instance_uid": item.ct_series_instance_uid,
        "roi_sop_instance_uid": item.roi_sop_instance_uid,
    }
    if text := wording(item.reason):
        entry |= {"sentence": text.sentence, "remedy": text.remedy}
    if item.state is not State.COMPLETED or not _KEY.fullmatch(key):
        row = store.details(item.id)
        error = row["events"][-1]["detail"] or str(item.state)
        return entry | {"outcome": "FAILED", "error": error, "hint": row["hint"]}
    target = out / key[:16]
    _publish(spool, key, target)
    entry["folder"] = key[:16]
    result = JobResult.model_validate_json((target / RESULT_FILE).read_bytes())
    entry |= {"reason_detail": result.reason_detail, "bundle": result.bundle.model_dump()}
    entry["scores"] = [score.model_dump(mode="json") for score in result.scores]
    entry["sub_model"] = list(result.sub_model.modalities) if result.sub_model else None
    return entry


def _publish(spool: Spool, key: str, target: Path) -> None:
    """Put the results where the caller wants them; results of the same key from an earlier run are replaced."""
    draft = target.with_name(f".{target.name}.new")
    for stale in (draft, target):
        if stale.exists():
            shutil.rmtree(stale)
    draft.mkdir()
    for part, names in (("analysis", RESULTS), ("report", REPORTS)):
        for name in names:
            source = spool.results(key, part) / name
            if source.is_file():
                shutil.copyfile(source, draft / name)
    draft.rename(target)
