"""The job: `python -m analysis.run IN OUT`. Two folders, no network, no settings; result.json is written last.

IN/job.json  IN/ct/*.dcm  IN/roi/*.dcm  IN/bundle/     ->     OUT/features.json  OUT/mask.nii.gz
                                                              OUT/pictures.npz   OUT/timing.json  OUT/result.json
"""

import errno
import importlib
import importlib.metadata
import json
import logging
import os
import resource
import select
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from analysis import ensemble, pictures, quality
from analysis.contract import (
    FEATURES_FILE,
    JOB_FILE,
    LATER,
    MASK_FILE,
    PICTURES_FILE,
    READY,
    RESULT_FILE,
    TIMING_FILE,
    BundleIdentity,
    ExitCode,
    GeometryFacts,
    JobRequest,
    JobResult,
    Measurement,
    Modality,
    NotScorable,
    Outcome,
    QualityFlag,
    Reason,
    RoiKind,
)
from analysis.roi import RoiMask, mask_from_rtstruct
from analysis.settings import ExtractionSettings
from analysis.volume import Volume, keep_room, read_ct
from models.bundle import Bundle, BundleError, load

if TYPE_CHECKING:
    from analysis.deep import DeepFeatures

LOGGER = logging.getLogger("analysis.run")
_MAY_PASS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOMEM)
_CALLED_FOR = ("numpy.ma", "analysis.deep", "onnxruntime")  # imported where they are needed: a median, an encoder
ROOM_SHARE = 8  # of the limit of memory: so much of it at most is taken for a CT before there is one
DEEP_FAMILY = "Deep radiomics"
_SOFTWARE = (
    "prognode",
    "numpy",
    "SimpleITK",
    "pyradiomics",
    "pydicom",
    "highdicom",
    "onnxruntime",
)


class Clock:
    """Seconds by step, for the benchmark's table; kept apart from the result."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = round(time.perf_counter() - start, 4)


def main(folder_in: Path, folder_out: Path) -> int:
    """Run one job; gives the exit status (analysis.contract.ExitCode)."""
    # Beside reading the request, the bundle and the CT, which wait for the disk or work without the interpreter.
    threading.Thread(target=_import_what_computes, name="imports").start()
    try:
        request = JobRequest.model_validate_json((folder_in / JOB_FILE).read_bytes())
    except OSError as error:
        LOGGER.error("job.no_input %s cannot be read: %s", JOB_FILE, error.strerror)
        return ExitCode.NO_INPUT
    except ValidationError as error:
        LOGGER.error("job.bad_request %s: %d errors against the contract", JOB_FILE, error.error_count())
        return ExitCode.DATA_ERROR
    try:
        bundle = load(folder_in / "bundle")
    except BundleError as error:
        LOGGER.error("job.bad_bundle %s", error)
        return ExitCode.CONFIG
    if bundle.digest != request.bundle_digest:
        LOGGER.error("job.bad_bundle the bundle's digest is not the one that was asked for")
        return ExitCode.CONFIG
    clock = Clock()
    try:
        return _answer(request, bundle, folder_in, folder_out, clock)
    except BundleError as error:
        LOGGER.error("job.bad_bundle %s", error)
        return ExitCode.CONFIG
    except ImportError as error:
        LOGGER.error("job.installation %s cannot be imported: %s", error.name, error.msg)
        return ExitCode.BUG
    except MemoryError:
        LOGGER.error("job.no_memory the limit is too small for this study")
    except OSError as error:
        if error.errno not in _MAY_PASS:
            raise
        LOGGER.error("job.no_room %s", error.strerror)
    return ExitCode.TEMPORARY


def _import_what_computes() -> None:
    with suppress(Exception):  # `analyse` imports it too, and fails with the same
        importlib.import_module("analysis.radiomic")


def _told() -> bool:
    """Fetch what every job needs while there is none yet, and wait for it; False where the runner is gone instead."""
    sys.stdout.write(f"{READY}\n")
    sys.stdout.flush()
    _import_what_computes()
    for name in _CALLED_FOR:
        with suppress(Exception):  # as above
            importlib.import_module(name)
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    with suppress(MemoryError):  # then it is looked for when it is needed
        most = sys.maxsize if limit == resource.RLIM_INFINITY else limit // ROOM_SHARE
        keep_room(most, lambda: bool(select.select([sys.stdin], [], [], 0)[0]))
    return bool(sys.stdin.readline())


def _answer(request: JobRequest, bundle: Bundle, folder_in: Path, folder_out: Path, clock: Clock) -> int:
    """Analyse, and write whatever the answer is."""
    try:
        result = analyse(request, bundle, folder_in, folder_out, clock)
    except NotScorable as answer:
        result = JobResult(
            key=request.key,
            outcome=Outcome.NOT_SCORED,
            reason=answer.reason,
            reason_detail=answer.detail,
            bundle=identity_of(bundle),
            clinical=request.clinical,
            software=software(),
        )
    _write(folder_out / TIMING_FILE, json.dumps(clock.seconds, indent=1).encode())
    _write(folder_out / RESULT_FILE, result.model_dump_json(indent=1).encode())
    return ExitCode.OK


def analyse(request: JobRequest, bundle: Bundle, folder_in: Path, folder_out: Path, clock: Clock) -> JobResult:
    """The steps in order: CT, contour, features, ensemble; pictures and quality beside those that follow the contour.

    Raises
    ------
    NotScorable
        The inputs cannot be scored, and why.
    """
    paths = [folder_in / "ct" / name for name in request.ct.files]
    with clock.step("read CT"):
        volume = read_ct(paths)
    with clock.step("contour to mask"):
        roi = _mask(request, folder_in, volume)
    with ThreadPoolExecutor(1, "beside") as beside:  # packing and numpy leave the interpreter to the others
        drawn = beside.submit(_draw, folder_out, volume, roi)
        seen = beside.submit(quality.flags, volume, roi)
        result = _measure(request, bundle, folder_out, clock, volume, roi, seen)
        with clock.step("pictures"):  # what is left of them
            drawn.result()
    return result


def _draw(folder_out: Path, volume: Volume, roi: RoiMask) -> None:
    pictures.write(folder_out / PICTURES_FILE, volume, roi.array)
    pictures.write_mask(folder_out / MASK_FILE, volume, roi.array)


def _measure(
    request: JobRequest,
    bundle: Bundle,
    folder_out: Path,
    clock: Clock,
    volume: Volume,
    roi: RoiMask,
    seen: "Future[tuple[QualityFlag, ...]]",
) -> JobResult:
    """Features and ensemble, with what is `seen` of the image's quality. Raises NotScorable and BundleError."""
    settings = ExtractionSettings.from_json(bundle.manifest.extraction)
    # Without settings the features came from another program: ours of the same name would be other numbers.
    radiomics = Modality.RADIOMIC.value in bundle.manifest.modalities and bool(bundle.manifest.extraction)
    with clock.step("imports of what computes"):
        importlib.import_module("analysis.radiomic")  # an import that fails in `main` meanwhile would hide why below
        from analysis import radiomic  # noqa: PLC0415 - half of what a job imports; begun in `main`

    with clock.step("features"):
        features = radiomic.features(volume, roi.array, settings)
    with clock.step("deep features"):
        encoded = _deep(bundle, volume, roi)
    with clock.step("ensemble"):
        scored = ensemble.score(
            bundle,
            request.clinical,
            features.values() if radiomics else None,
            encoded.values if encoded else None,
        )
    measurements = (*features.measurements, *_measurements(bundle, encoded))
    _write(folder_out / FEATURES_FILE, _features_json(measurements))
    facts = roi.facts(volume)
    return JobResult(
        key=request.key,
        outcome=Outcome.SCORED,
        bundle=identity_of(bundle),
        scores=scored.scores,
        curves=scored.curves,
        groups=scored.groups,
        sub_model=scored.sub_model,
        contributions=scored.contributions,
        clinical=request.clinical,
        measurements=measurements,
        failed_features=tuple(features.failed),
        extraction=settings.as_text(),
        quality=(
            *request.quality,
            *scored.flags,
            *features.flags,
            *(encoded.flags if encoded else ()),
            *seen.result(),
        ),
        roi=facts,
        geometry=_geometry(volume),
        software=software(),
    )


def _deep(bundle: Bundle, volume: Volume, roi: RoiMask) -> "DeepFeatures | None":
    """Deep features by the bundle's encoder; None where it has none. Raises BundleError where it cannot be used."""
    if bundle.manifest.encoder is None:
        return None
    from analysis.deep import Encoder, EncoderError  # noqa: PLC0415 - as for `radiomic`

    try:
        return Encoder.load(bundle.folder / bundle.manifest.encoder).features(volume, roi.array)
    except EncoderError as error:
        raise BundleError(str(error)) from error


def _measurements(bundle: Bundle, encoded: "DeepFeatures | None") -> list[Measurement]:
    """The deep features that the model uses: the others mean nothing to anyone."""
    if encoded is None:
        return []
    return [Measurement(name=name, family=DEEP_FAMILY, value=encoded.values[name]) for name in bundle.manifest.deep]


def identity_of(bundle: Bundle) -> BundleIdentity:
    return BundleIdentity(**bundle.identity._asdict())


def software() -> dict[str, str]:
    """Versions of what produced the numbers."""
    versions = {name: importlib.metadata.version(name) for name in _SOFTWARE}
    return {"python": ".".join(map(str, sys.version_info[:3])), **versions}


def _mask(request: JobRequest, folder_in: Path, volume: Volume) -> RoiMask:
    path, wanted = folder_in / "roi" / request.roi.file, (request.roi.numbers, request.roi.combine)
    try:
        if request.roi.kind is RoiKind.RTSTRUCT:
            return mask_from_rtstruct(path, *wanted, volume)
        from analysis.segment import mask_from_seg  # noqa: PLC0415 - highdicom: a quarter of what a job imports

        return mask_from_seg(path, *wanted, volume)
    except MemoryError:  # a SEG may claim any size; the CT, which is as large as it may be, has been read by now
        raise NotScorable(Reason.ROI_UNREADABLE, "it claims more than fits into memory") from None


def _geometry(volume: Volume) -> GeometryFacts:
    slices, rows, columns = volume.array.shape
    return GeometryFacts(
        shape=(slices, rows, columns), spacing_mm=volume.spacing, files=volume.files, frames=volume.frame_numbers
    )


def _features_json(measurements: tuple[Measurement, ...]) -> bytes:
    return json.dumps([item.model_dump(mode="json") for item in measurements], indent=1).encode()


def _write(path: Path, data: bytes) -> None:
    """Under another name first: the node must never see half a file."""
    draft = path.with_suffix(".part")
    with draft.open("wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    draft.replace(path)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s")
    later = sys.argv[3:] == [LATER]
    if len(sys.argv) != 3 and not later:
        LOGGER.error("usage: python -m analysis.run IN OUT")
        raise SystemExit(os.EX_USAGE)
    if later and not _told():
        raise SystemExit(ExitCode.OK)
    code = main(Path(sys.argv[1]), Path(sys.argv[2]))
    logging.shutdown()
    sys.stdout.flush()
    os._exit(code)  # all is written, and closed: to take the interpreter apart would need a tenth of a second
