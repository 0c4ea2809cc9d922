"""The golden case: one small case inside the bundle with what must come out of it. `python -m analysis.golden BUNDLE`.

A drawn lesion and typical clinical values, never a patient. It is run through the very functions of the job, for every
combination of modalities: a bundle that says other numbers here than on the machine that trained it is not used.
"""

import io
import json
import logging
import math
import os
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from analysis import ensemble, radiomic
from analysis.contract import ClinicalValue, ExitCode, Modality, NotScorable
from analysis.deep import Encoder, EncoderError
from analysis.settings import ExtractionSettings, ExtractionSettingsInvalid
from analysis.volume import Volume
from models.bundle import GOLDEN, GOLDEN_IMAGE, Bundle, BundleError, combinations_of, load
from models.manifest import significant

LOGGER = logging.getLogger("analysis.golden")
SHAPE, SPACING = (20, 48, 48), (3.0, 1.5, 1.5)
# Another processor sums in another order, and the encoder computes in single precision.
TOLERANCE, FLOOR = 1e-4, 1e-2  # of a number's size, and of a hundredth for those that are nearly nothing
LARGEST_IMAGE = 10_000_000  # bytes unpacked
Case = dict[str, Any]
Mask = NDArray[np.bool_]


class _Stored(BaseModel):
    """`golden.json`."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    clinical: dict[str, float | str]
    features: dict[str, float]
    scores: dict[str, dict[str, tuple[float, float, float]]]


class GoldenMismatch(Exception):
    """The bundle says other numbers on this machine than where it was trained; the text names the first."""


def make(bundle: Bundle) -> dict[str, bytes]:
    """The files of the golden case of a bundle that has none yet."""
    files = {}
    image = None
    if _wants_image(bundle):
        volume, mask = draw()
        content = io.BytesIO()
        np.savez_compressed(content, hu=volume.array.astype(np.int16), mask=mask)
        files[GOLDEN_IMAGE] = content.getvalue()
        image = volume, mask
    case = run(bundle, typical(bundle), image)
    files[GOLDEN] = (json.dumps(case, indent=1, sort_keys=True) + "\n").encode()
    return files


def verify(bundle: Bundle) -> int:
    """Run the golden case and compare; gives how many numbers agreed.

    Raises
    ------
    GoldenMismatch
        The bundle has no golden case, it cannot be read, or a number differs by more than 1e-4 of its size.
    """
    if GOLDEN not in bundle.manifest.files:
        raise GoldenMismatch(f"{GOLDEN}: missing, so nothing shows that the numbers are right here; train it again")
    stored = _stored_case(bundle)
    image = _stored_image(bundle) if _wants_image(bundle) else None
    try:
        found = run(bundle, stored["clinical"], image)
    except (NotScorable, EncoderError, ExtractionSettingsInvalid, ValidationError) as refusal:
        said = str(refusal).splitlines()[0]
        raise GoldenMismatch(f"the golden case cannot be scored here: {said}; train the bundle again") from None
    count = 0
    for name, expected, value in _pairs(stored, found):
        if not _same(expected, value):
            raise GoldenMismatch(f"golden case: {name} is {value}, expected {expected}; do not use this bundle here")
        count += 1
    return count


def run(bundle: Bundle, clinical: Mapping[str, float | str], image: tuple[Volume, Mask] | None) -> Case:
    """Features that the model uses, and what every combination of modalities says."""
    manifest = bundle.manifest
    radiomics, deep = _features(bundle, image)
    cases = {}
    for subset in combinations_of(manifest.modalities):
        given = [ClinicalValue(name=n, value=v, source="golden case") for n, v in clinical.items()]
        said = ensemble.score(
            bundle,
            given if Modality.CLINICAL in subset else (),
            radiomics if Modality.RADIOMIC in subset else None,
            deep if Modality.DEEP in subset else None,
        )
        if set(said.sub_model.modalities) != set(subset):
            continue  # no clinical minimum: the clinical model speaks even without a value, so others never speak alone
        cases["+".join(subset)] = {
            f"{score.endpoint}_{score.horizon_months}": [
                significant(value) for value in (score.event_probability, score.lower, score.upper)
            ]
            for score in said.scores
        }
    features = {name: significant(value) for name, value in {**(radiomics or {}), **(deep or {})}.items()}
    return {"clinical": dict(clinical), "features": features, "scores": cases}


def typical(bundle: Bundle) -> dict[str, float | str]:
    """What stands in for a missing value: the training cohort's median or commonest."""
    booleans = {predictor.name for predictor in bundle.manifest.clinical if predictor.type == "boolean"}
    return {p.name: ("yes" if p.fill else "no") if p.name in booleans else p.fill for p in bundle.manifest.clinical}


def draw() -> tuple[Volume, Mask]:
    """A lesion of 6 mL with structured tissue in aerated lung; whole HU, so that it can be stored exactly."""
    from analysis.train.synth.raster import blurred  # noqa: PLC0415 - only a bundle's maker draws; a job's image lacks it

    z, y, x = np.meshgrid(
        *[(np.arange(n) - (n - 1) / 2) * step for n, step in zip(SHAPE, SPACING, strict=True)], indexing="ij"
    )
    radius = np.sqrt(z**2 + (y / 1.15) ** 2 + (x / 0.9) ** 2) + 1.2 * np.sin(0.45 * x) * np.cos(0.35 * y + 0.2 * z)
    grain = np.random.default_rng(1612).normal(0, 9, SHAPE)
    tissue = 40 + 25 * np.sin(0.5 * x + 0.3 * y) * np.cos(0.4 * z) + grain
    lung = -840 + 30 * np.cos(0.2 * x + 0.1 * z) + grain
    cover = np.clip(0.5 + (11.5 - radius) / 1.5, 0, 1)
    hu = np.rint(blurred(cover * tissue + (1 - cover) * lung, (0, 0.6, 0.6))).astype(np.float32)
    return _volume(hu), np.asarray(radius < 11.5)


def _volume(hu: NDArray[np.float32]) -> Volume:
    count = hu.shape[0]
    return Volume(
        array=hu,
        spacing=SPACING,
        origin=np.zeros(3),
        direction=np.array([[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]),
        frame_of_reference_uid="",
        sop_instance_uids=("",) * count,
        frame_numbers=tuple(range(1, count + 1)),
    )


def _wants_image(bundle: Bundle) -> bool:
    return bool(bundle.manifest.extraction) or bundle.manifest.encoder is not None


def _stored_case(bundle: Bundle) -> Case:
    try:
        return _Stored.model_validate_json((bundle.folder / GOLDEN).read_bytes()).model_dump()
    except (OSError, ValueError):
        raise GoldenMismatch(f"{GOLDEN}: holds no golden case; train the bundle again") from None


def _stored_image(bundle: Bundle) -> tuple[Volume, Mask]:
    try:
        with zipfile.ZipFile(bundle.folder / GOLDEN_IMAGE) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size <= LARGEST_IMAGE:
            with np.load(bundle.folder / GOLDEN_IMAGE, allow_pickle=False) as stored:
                hu, mask = stored["hu"].astype(np.float32), stored["mask"].astype(bool)
            if hu.ndim == 3 and hu.shape == mask.shape and np.isfinite(hu).all() and mask.any():
                return _volume(hu), mask
        why = "no image with a mask"
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
        why = type(error).__name__
    raise GoldenMismatch(f"{GOLDEN_IMAGE}: cannot be read ({why}); train it again")


def _features(
    bundle: Bundle, image: tuple[Volume, Mask] | None
) -> tuple[dict[str, float] | None, dict[str, float] | None]:
    """The features that the model uses; a bundle trained on ready columns of another program gets them as zeros."""
    manifest = bundle.manifest
    radiomics: dict[str, float] | None = None
    deep: dict[str, float] | None = None
    if manifest.radiomic:
        found = {}
        if image is not None and manifest.extraction:
            found = radiomic.features(*image, ExtractionSettings.from_json(manifest.extraction)).values()
        radiomics = {name: found.get(name, 0.0) for name in manifest.radiomic}
    if manifest.deep:
        found = {}
        if image is not None and manifest.encoder is not None:
            found = Encoder.load(bundle.folder / manifest.encoder).features(*image).values
        deep = {name: found.get(name, 0.0) for name in manifest.deep}
    return radiomics, deep


def _pairs(stored: Case, found: Case) -> Iterator[tuple[str, float, float]]:
    """Number by number; what stands on one side alone is compared with NaN."""
    for name in sorted(stored["features"].keys() | found["features"].keys()):
        yield name, stored["features"].get(name, math.nan), found["features"].get(name, math.nan)
    for subset in sorted(stored["scores"].keys() | found["scores"].keys()):
        before, now = stored["scores"].get(subset, {}), found["scores"].get(subset, {})
        for name in sorted(before.keys() | now.keys()):
            nothing = [math.nan] * 3
            for what, expected, value in zip(
                ("probability", "lower", "upper"), before.get(name, nothing), now.get(name, nothing), strict=True
            ):
                yield f"{subset} {name} {what}", expected, value


def _same(expected: float, value: float) -> bool:
    return abs(expected - value) <= TOLERANCE * max(FLOOR, abs(expected))


def main(folder: Path) -> int:
    """Verify a bundle's golden case; gives the exit status (analysis.contract.ExitCode)."""
    try:
        count = verify(load(folder))
    except (BundleError, GoldenMismatch, EncoderError) as error:
        LOGGER.error("%s", error)
        return ExitCode.CONFIG
    LOGGER.info("golden case: %d numbers agree", count)
    return ExitCode.OK


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    if len(sys.argv) != 2:
        LOGGER.error("usage: python -m analysis.golden BUNDLE")
        raise SystemExit(os.EX_USAGE)
    raise SystemExit(main(Path(sys.argv[1])))
