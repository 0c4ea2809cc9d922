"""What the node has made of a work item, as the pages read it: result, CT, outlines, pictures, reports."""

import re
from pathlib import Path

from pydantic import ValidationError

from analysis.contract import MASK_FILE, RESULT_FILE, JobResult
from dicom_node.spool import Spool
from dicom_node.store import Store
from dicom_node.web import contour, sr_text
from dicom_node.web.cache import Cache
from dicom_node.web.stack import Stack, stack_of
from dicom_node.workitem import WorkItem

_DOCUMENT = re.compile(r"[a-z0-9][a-z0-9-]{0,40}")
_PAGE = re.compile(r"page-(\d{1,3})\.png")

_results: Cache[JobResult] = Cache(16, lambda result: 1)
_stacks: Cache[Stack | None] = Cache(16, lambda stack: 1)
_trees: Cache[sr_text.Item] = Cache(16, lambda tree: 1)
_outlines: Cache[dict[int, str]] = Cache(8_000_000, lambda paths: sum(map(len, paths.values())) + 1)


def result_of(item: WorkItem, spool: Spool) -> JobResult | None:
    """The job's result; None before there is one, or where it cannot be read."""
    path = spool.results(item.key or "-", "analysis") / RESULT_FILE
    try:
        return _results.get(path, lambda: JobResult.model_validate_json(path.read_bytes()))
    except (OSError, ValidationError):
        return None


def stack(item: WorkItem, result: JobResult | None, store: Store, spool: Spool) -> Stack | None:
    """The CT of a work item as a stack of slices."""

    def make() -> Stack | None:
        return stack_of(item, result, store, spool)

    if item.key is None:  # its series may still grow
        return make()
    return _stacks.get((spool.root, item.key, result is not None), make)


def outlines(item: WorkItem, result: JobResult | None, spool: Spool) -> dict[int, str]:
    """Outlines by slice, as SVG path data. Raises contour.MaskUnreadable; {} where there is no mask."""
    if result is None or result.geometry is None:
        return {}
    path, shape = spool.results(item.key or "-", "analysis") / MASK_FILE, result.geometry.shape
    if not path.is_file():
        return {}
    return _outlines.get(path, lambda: contour.read(path, shape))


def pages(item: WorkItem, spool: Spool) -> list[int]:
    """Numbers of the pages that were drawn for people."""
    folder = spool.results(item.key or "-", "report")
    found = (_PAGE.fullmatch(path.name) for path in folder.glob("page-*.png"))
    return sorted(int(match.group(1)) for match in found if match)


def page_picture(item: WorkItem, number: int, spool: Spool) -> Path:
    return spool.results(item.key or "-", "report") / f"page-{number}.png"


def reports(item: WorkItem, spool: Spool) -> list[str]:
    """Names of the Structured Reports; the variants in other SOP classes say the same and are left out."""
    folder = spool.results(item.key or "-", "report")
    return sorted(path.stem for path in folder.glob("*-sr.dcm") if _DOCUMENT.fullmatch(path.stem))[::-1]


def report_file(item: WorkItem, document: str, spool: Spool) -> Path | None:
    """The file of a Structured Report; None for a name that is none of them."""
    return spool.results(item.key or "-", "report") / f"{document}.dcm" if document in reports(item, spool) else None


def report_tree(path: Path) -> sr_text.Item:
    """A Structured Report as text. Raises sr_text.ReportUnreadable."""
    try:
        facts = path.stat()
    except OSError:
        return sr_text.read(path)  # which says why
    return _trees.get((path, facts.st_size, facts.st_mtime_ns), lambda: sr_text.read(path))
