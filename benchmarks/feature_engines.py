"""One feature engine, kept warm: a task per line on stdin, an answer per line of JSON. For benchmarks.features.

    python -P benchmarks/feature_engines.py ENGINE CASE.npz

The case holds `hu` (slices, rows, columns), `mask` and `spacing` (mm, same order). A task is `original`, `full`
(original, LoG 1 to 5 mm, wavelet), `ibsi` (configuration C of the CT phantom) or `small` (a warm-up). An answer has CPU
and wall seconds, the process's peak memory, and the values. Each engine is called as its own documentation says, at
1 mm, with bins of 25 HU. Only the engine `prognode` imports anything of ours.
"""

import contextlib
import json
import os
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Case = dict[str, Any]
Values = dict[str, float]
SIGMAS = (1.0, 2.0, 3.0, 4.0, 5.0)
RANGE = (-1000.0, 400.0)


def prognode(case: Case, task: str) -> Values:
    from analysis.radiomic import features
    from analysis.settings import Discretisation, ExtractionSettings
    from analysis.volume import Volume

    kinds = ("original", *(f"log-sigma-{sigma}-mm" for sigma in SIGMAS), "wavelet") if task == "full" else ("original",)
    step = 2.0 if task == "ibsi" else 1.0
    settings = ExtractionSettings(
        spacing_mm=(step, step, step),
        image_interpolator="linear" if task == "ibsi" else "bspline",
        discretisation=Discretisation("FBS", 25.0, -1000.0),
        image_types=kinds,
        aggregation="merged" if task == "ibsi" else "avg",
    )
    count = case["hu"].shape[0]
    volume = Volume(case["hu"], case["spacing"], np.zeros(3), np.eye(3), "1", ("",) * count, (1,) * count)
    found = features(volume, case["mask"], settings)
    return found.values()


def pyradiomics(case: Case, task: str) -> Values:
    """Stock, as its documentation calls it: settings, image types, execute(image, mask)."""
    import logging

    import radiomics
    import SimpleITK
    from radiomics import featureextractor

    radiomics.logger.setLevel(logging.CRITICAL)
    image, region = (SimpleITK.GetImageFromArray(part) for part in (case["hu"], case["mask"].astype(np.uint8)))
    for part in (image, region):
        part.SetSpacing(case["spacing"][::-1])
    step = 2.0 if task == "ibsi" else 1.0
    how = SimpleITK.sitkLinear if task == "ibsi" else SimpleITK.sitkBSpline
    extra: dict[str, Any] = {"resegmentRange": list(RANGE), "weightingNorm": "no_weighting"} if task == "ibsi" else {}
    extractor = featureextractor.RadiomicsFeatureExtractor(
        binWidth=25, resampledPixelSpacing=[step] * 3, interpolator=how, **extra
    )
    if task == "full":
        extractor.enableImageTypes(Original={}, LoG={"sigma": list(SIGMAS)}, Wavelet={})
    return {k: float(v) for k, v in extractor.execute(image, region).items() if not k.startswith("diag")}


def pictologics(case: Case, task: str) -> Values:
    import pictologics as library

    turned = [np.ascontiguousarray(case[name].T) for name in ("hu", "mask")]
    spacing = case["spacing"][::-1]
    image, region = (library.Image(array, spacing, (0.0, 0.0, 0.0)) for array in turned)
    step = 2.0 if task == "ibsi" else 1.0
    how = "linear" if task == "ibsi" else "cubic"
    before = [
        {
            "step": "resample",
            "params": {
                "new_spacing": (step,) * 3,
                "interpolation": how,
                "round_intensities": True,
                "mask_interpolation": "linear",
                "mask_threshold": 0.499999,
            },
        },
        {"step": "resegment", "params": {"range_min": RANGE[0], "range_max": RANGE[1], "apply_to": "intensity"}},
    ]
    families = ["intensity", "morphology", "histogram", "texture"]
    pipeline = library.RadiomicsPipeline(load_standard=False)

    def add(name: str, filters: list[dict[str, Any]], bins: dict[str, float], of: list[str]) -> None:
        steps = [{"step": "discretise", "params": {"method": "FBS", "bin_width": 25.0, **bins}}]
        steps.append({"step": "extract_features", "params": {"families": of}})
        pipeline.add_config(name, [*before, *filters, *steps], source_mode="full_image")

    add("original", [], {"min_val": RANGE[0]}, families)
    if task == "full":
        rest = [family for family in families if family != "morphology"]
        for sigma in SIGMAS:
            log = {"type": "log", "sigma_mm": sigma}
            add(f"log-{sigma}", [{"step": "filter", "params": log}], {"min_val": -3000.0}, rest)
        for band in ("LLL", "LLH", "LHL", "LHH", "HLL", "HLH", "HHL", "HHH"):
            wavelet = {"type": "wavelet", "wavelet": "coif1", "level": 1, "decomposition": band}
            add(f"wavelet-{band}", [{"step": "filter", "params": wavelet}], {"min_val": -3000.0}, rest)
    found = pipeline.run(image, region)
    return {f"{config}_{name}": float(value) for config, series in found.items() for name, value in series.items()}


def mirp(case: Case, task: str) -> Values:
    """It takes files: uncompressed NIfTI, written before the clock starts (`prepare`)."""
    from mirp import extract_features

    step = 2.0 if task == "ibsi" else 1.0
    settings: dict[str, Any] = {
        "new_spacing": step,
        "spline_order": 1 if task == "ibsi" else 3,
        "resegmentation_intensity_range": list(RANGE),
        "base_discretisation_method": "fixed_bin_size",
        "base_discretisation_bin_width": 25.0,
        "glcm_spatial_method": "3d_volume_merge" if task == "ibsi" else "3d_average",
        "glrlm_spatial_method": "3d_volume_merge" if task == "ibsi" else "3d_average",
        "base_feature_families": ["morph", "stat", "ih", "cm", "rlm", "szm", "ngtdm", "ngldm"],
    }
    if task == "full":
        settings |= {
            "filter_kernels": ["laplacian_of_gaussian", "separable_wavelet"],
            "laplacian_of_gaussian_sigma": list(SIGMAS),
            "separable_wavelet_families": "coif1",
            "separable_wavelet_set": "all",
            "separable_wavelet_rotation_invariance": False,
            "response_map_feature_families": ["stat", "ih", "cm", "rlm", "szm", "ngtdm", "ngldm"],
            "response_map_discretisation_method": "fixed_bin_size",
            "response_map_discretisation_bin_width": 25.0,
        }
    table = extract_features(image=case["files"][0], mask=case["files"][1], image_modality="ct", **settings)[0]
    values = table.iloc[0]
    return {name: float(value) for name, value in values.items() if isinstance(value, (int, float, np.number))}


def zrad(case: Case, task: str) -> Values:
    from zrad import filtering, preprocessing
    from zrad.exceptions import DataStructureError
    from zrad.image import Image
    from zrad.preprocessing import discretization, interpolation, resegmentation, roi
    from zrad.radiomics.extractor import Radiomics

    def image(array: Any) -> Any:
        return Image(array, (0.0, 0.0, 0.0), case["spacing"][::-1], tuple(np.eye(3).ravel()), array.shape[::-1])

    step = 2.0 if task == "ibsi" else 1.0
    how = "linear" if task == "ibsi" else "bspline"
    hu, mask = image(case["hu"].astype(np.float64)), image(case["mask"].astype(np.float64))
    data = preprocessing.RoiData(hu, morphological_mask=mask)
    data = interpolation.ImageResampler(step, how, "nearest_integer").apply(data)
    data = interpolation.MaskResampler(step, "linear").apply(data)
    found = {}
    kinds: list[tuple[str, Any]] = [("original", None)]
    if task == "full":
        kinds += [(f"log-{s}", filtering.LoG("reflect", s, 4, "3D")) for s in SIGMAS]
        for band in ("LLL", "LLH", "LHL", "LHH", "HLL", "HLH", "HHL", "HHH"):
            kinds.append((f"wavelet-{band}", filtering.Wavelets3D("coif1", "reflect", band, 1)))
    for name, kernel in kinds:
        one = kernel.apply(data) if kernel else data
        one = roi.IntensityMaskBuilder().apply(one)
        one = resegmentation.RangeResegmenter(RANGE).apply(one)
        one = roi.RoiCropper().apply(one)
        bins = discretization.FixedBinSizeDiscretizer(25, None if kernel else RANGE[0])
        one.texture_discretized_image = bins.apply(one.intensity_mask)
        families = ["intensity_statistics", "intensity_histogram", "glcm", "glrlm", "glszm", "ngtdm", "ngldm"]
        families += [] if kernel else ["morphology"]
        extractor = Radiomics("3D", "MERG" if task == "ibsi" else "AVER")
        for family in families:
            with contextlib.suppress(DataStructureError):  # a filtered image of a few levels has no histogram for it
                values = extractor.extract_features(one, [family])
                found |= {f"{name}_{key}": float(value) for key, value in values.items()}
    return found


ENGINES: dict[str, Callable[[Case, str], Values]] = {
    engine.__name__: engine for engine in (prognode, pyradiomics, pictologics, mirp, zrad)
}


def small() -> Case:
    """A lesion of 2 mL, for what is loaded or compiled at first use."""
    z, y, x = np.ogrid[-12:12, -20:20, -22:22]
    hu = np.random.default_rng(0).integers(-40, 120, (24, 40, 44)).astype(np.int16)
    return {"hu": hu, "mask": z**2 * 1.3 + y**2 + x**2 / 1.4 < 70, "spacing": (1.5, 0.9, 0.9)}


def prepare(case: Case, folder: Path, name: str) -> Case:
    """Files for an engine that wants some."""
    import nibabel

    files = []
    for part, kind in (("hu", np.int16), ("mask", np.uint8)):
        path = folder / f"{name}-{part}.nii"
        affine = np.diag([*case["spacing"][::-1], 1.0])
        nibabel.Nifti1Image(case[part].astype(kind).T, affine).to_filename(path)
        files.append(str(path))
    return case | {"files": files}


def main(engine: str, path: str) -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what a library prints is no answer
    warnings.simplefilter("ignore")
    with np.load(path) as stored, tempfile.TemporaryDirectory() as folder:
        case = {"hu": stored["hu"], "mask": stored["mask"], "spacing": tuple(float(s) for s in stored["spacing"])}
        warm = small()
        if engine == "mirp":
            case, warm = prepare(case, Path(folder), "case"), prepare(warm, Path(folder), "small")
        for line in sys.stdin:
            task = line.strip()
            wall, cpu = time.perf_counter(), _cpu()
            try:
                values = ENGINES[engine](warm if task == "small" else case, "full" if task == "small" else task)
            except Exception as error:  # noqa: BLE001 (a peer that fails is a line of the table)
                answers.write(json.dumps({"error": f"{type(error).__name__}: {error}"[:200]}) + "\n")
                continue
            answer = {"wall": time.perf_counter() - wall, "cpu": _cpu() - cpu, "values": values}
            answer["peak_mb"] = _peak()
            answers.write(json.dumps(answer) + "\n")


def _peak() -> float:
    """MB. Not ru_maxrss: a child begins with its parent's."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["VmHWM"].split()[0]) / 1024


def _cpu() -> float:
    return sum(resource.getrusage(resource.RUSAGE_SELF)[:2])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
