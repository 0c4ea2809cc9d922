"""The report stage: evidence headers and the job's result go into `reports`, Part 10 files come out into the spool."""

import contextlib
import io
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydicom import DataElement, Dataset, dcmread
from pydicom.uid import CTImageStorage

from analysis import nifti
from analysis.contract import MASK_FILE, PICTURES_FILE, RESULT_FILE, JobResult, Outcome
from dicom_node import evidence_header
from dicom_node.decision import NotEligible, Plan
from dicom_node.overlay import Overlay, with_identity
from dicom_node.spool import Spool
from reports import build
from reports.context import DocumentReference, ReportContext, reference_to
from reports.sr_variant import files

RISK_SR, RADIOMICS_SR, SEGMENTATION, PAGE, SECOND_PAGE = "risk-sr", "radiomics-sr", "segmentation", "page-1", "page-2"
PRESENTATION_STATE, PDF = "presentation-state", "pages-pdf"
DOCUMENTS = (SEGMENTATION, RISK_SR, RADIOMICS_SR, PAGE, SECOND_PAGE, PRESENTATION_STATE, PDF)  # as they are sent
OPTIONAL = frozenset({PRESENTATION_STATE, PDF})  # a PACS that does not store these has the result all the same
PAGE_PICTURES = (f"{PAGE}.png", f"{SECOND_PAGE}.png")
LOGGER = logging.getLogger(__name__)
MAXIMUM_UNPACKED_BYTES = 1 << 30  # of a mask, or of all pictures; a mask of 2000 slices of 512 x 512 has half of it
DEEPEST = 12  # levels of sequences; a deep one costs a stack frame each


def compose(
    spool: Spool,
    key: str,
    decision: Plan | NotEligible,
    path_of: Callable[[str], Path],
    context: ReportContext,
    sr_sop_classes: Sequence[str],
    overlay: Overlay | None = None,
    optional: build.Optional = build.NOTHING_MORE,
) -> tuple[str, ...]:
    """Write the objects of a work item into results/<key>/report, the same bytes each time.

    `overlay` is the patient's identity where it is not what the images carry; `context.identity` is its digest.

    Gives the documents in the order in which they are sent: an SR never arrives before the SEG that it refers to.

    The SRs are written in the first of `sr_sop_classes`, and once more for each other class as
    `<document>.<class>.dcm`, for a PACS that refuses the first.

    Raises
    ------
    OSError, ValueError
        When the job's files or the evidence cannot be read.
    """
    analysis = spool.results(key, "analysis")
    result = JobResult.model_validate_json((analysis / RESULT_FILE).read_bytes())
    header_of = _headers(path_of, overlay or {})
    made = _made(analysis, result, decision, header_of, _Order(context, sr_sop_classes[0], optional))
    present = _named(made)
    with spool.replace_results(key, "report") as folder, ThreadPoolExecutor(1, "pages") as beside:
        pages = beside.map(lambda page: _png(page.pixels), made.pages)
        for name, dataset in present.items():
            others = sr_sop_classes[1:] if name in (RISK_SR, RADIOMICS_SR) else ()
            preferred, variants = files(dataset, others)
            (folder / f"{name}.dcm").write_bytes(preferred)
            for other, variant in zip(others, variants, strict=True):
                (folder / variant_name(name, other)).write_bytes(variant)
        for name, page in zip(PAGE_PICTURES, pages, strict=False):
            (folder / name).write_bytes(page)
    return tuple(present)


@dataclass(frozen=True)
class _Order:
    """What the report stage is asked for, beside the result."""

    context: ReportContext
    sr_sop_class: str
    optional: build.Optional


def _named(made: build.Documents) -> dict[str, Dataset]:
    """What was made by document name, in the order of sending: an object never comes before what it refers to."""
    pages = dict(zip((PAGE, SECOND_PAGE), (page.dataset for page in made.pages), strict=False))
    objects = {
        SEGMENTATION: made.segmentation,
        RISK_SR: made.risk_sr,
        RADIOMICS_SR: made.radiomics_sr,
        **pages,
        PRESENTATION_STATE: made.presentation_state,
        PDF: made.pdf,
    }
    return {name: objects[name] for name in DOCUMENTS if objects.get(name) is not None}  # type: ignore[misc]


def variant_name(document: str, sop_class_uid: str) -> str:
    """File name of an SR in another SOP class than the preferred one."""
    return f"{document}.{sop_class_uid}.dcm"


def previous_documents(
    spool: Spool, predecessor_key: str | None, sent: Mapping[str, str], kept: str | None = None
) -> tuple[DocumentReference | None, DocumentReference | None]:
    """References to the SRs of the revision before: to the variants that were `sent`, where any were.

    `kept` is what `kept_documents` made of them before retention removed their files.
    """
    if predecessor_key is None:
        return None, None
    if kept is not None:
        known = [DocumentReference(**each) if each else None for each in json.loads(kept)]
        return known[0], known[1]
    folder = spool.results(predecessor_key, "report")
    found = [_reference(folder, name, sent.get(name)) for name in (RISK_SR, RADIOMICS_SR)]
    return found[0], found[1]


def kept_documents(spool: Spool, key: str, sent: Mapping[str, str]) -> str:
    """The references to a work item's SRs as text, for when their files are gone."""
    return json.dumps([asdict(each) if each else None for each in previous_documents(spool, key, sent)])


def _made(
    analysis: Path,
    result: JobResult,
    decision: Plan | NotEligible,
    header_of: Callable[[str], Dataset],
    order: _Order,
) -> build.Documents:
    """The documents; where a header of the evidence cannot be used as it is, from what of it can be read."""
    try:
        return _build(analysis, result, decision, header_of, order)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 - the boundary to odd headers: highdicom and pydicom raise whatever fits
        LOGGER.warning(
            "report.cleaned a header of the evidence is odd (%s); its odd parts are left out", type(error).__name__
        )
        return _build(analysis, result, decision, lambda uid: _cleaned(header_of(uid)), order)


def _build(
    analysis: Path,
    result: JobResult,
    decision: Plan | NotEligible,
    header_of: Callable[[str], Dataset],
    order: _Order,
) -> build.Documents:
    pictures, how = _pictures(analysis / PICTURES_FILE), (order.context, order.sr_sop_class)
    if isinstance(decision, NotEligible):
        evidence = [header_of(uid) for uid in decision.evidence if uid]
        return build.not_scored(evidence, build.refusal_of(result), *how, pictures, order.optional)
    roi = header_of(decision.roi_sop_instance_uid)
    if result.outcome is Outcome.NOT_SCORED:
        evidence = [*(header_of(uid) for uid in decision.ct_sop_instance_uids), roi]
        return build.not_scored(evidence, build.refusal_of(result), *how, pictures, order.optional)
    if result.geometry is None:
        raise ValueError("a scored result has no geometry; analyse the study again")
    names = {Spool.ct_name(place): uid for place, uid in enumerate(decision.ct_sop_instance_uids)}
    ordered = list(dict.fromkeys(names[name] for name in result.geometry.files))  # multi-frame: one file, many slices
    multi_frame = len(ordered) == 1 and len(result.geometry.files) > 1
    frames = result.geometry.frames if multi_frame else None
    with ThreadPoolExecutor(1, "mask") as beside:
        mask = beside.submit(_mask, analysis / MASK_FILE)
        ct = [header_of(uid) for uid in ordered]
        return build.scored(ct, roi, mask.result, pictures, result, *how, frames, order.optional)


def _mask(path: Path) -> build.Mask:
    """80 MB of a chest, unpacked and hashed without the interpreter, beside all that can be made without them."""
    return build.Mask.of(nifti.read(path, MAXIMUM_UNPACKED_BYTES))


def _headers(path_of: Callable[[str], Path], overlay: Overlay) -> Callable[[str], Dataset]:
    """Headers of the evidence by SOP Instance UID, under the current identity."""

    def header_of(uid: str) -> Dataset:
        return with_identity(evidence_header.read(path_of(uid)), overlay)

    return header_of


def _cleaned(header: Dataset) -> Dataset:
    """What of a header can be read: each element alone, and no sequence deeper than any real one."""
    clean = Dataset()
    for tag in list(header.keys()):
        with contextlib.suppress(Exception):
            element = header[tag]
            if _depth(element) <= DEEPEST and not (element.VR in ("DS", "IS") and isinstance(element.value, str)):
                element.to_json_dict(None, 0)  # converts every value of it
                clean.add(element)
    if clean.get("SOPClassUID") == CTImageStorage and "NumberOfFrames" in clean:
        del clean.NumberOfFrames
    return clean


def _depth(element: DataElement) -> int:
    if element.VR != "SQ" or not element.value:
        return 0
    return 1 + max(max((_depth(inner) for inner in item), default=0) for item in element.value)


def _pictures(path: Path) -> Mapping[str, NDArray[Any]] | None:
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as archive:
        if sum(entry.file_size for entry in archive.zip.infolist()) > MAXIMUM_UNPACKED_BYTES:
            raise ValueError(f"{path.name} unpacks to more than {MAXIMUM_UNPACKED_BYTES} bytes")
        return {name: archive[name] for name in archive.files}


def _reference(folder: Path, document: str, sop_instance_uid: str | None) -> DocumentReference | None:
    paths = [folder / f"{document}.dcm", *sorted(folder.glob(variant_name(document, "*")))]
    headers = [dcmread(path, stop_before_pixels=True) for path in paths if path.is_file()]
    if not headers:
        return None
    sent = next((header for header in headers if header.SOPInstanceUID == sop_instance_uid), headers[0])
    return reference_to(sent)


def _png(pixels: NDArray[np.uint8]) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG", compress_level=3)
    return stream.getvalue()
