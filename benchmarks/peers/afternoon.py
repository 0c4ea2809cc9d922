"""The baseline that a good engineer scripts in an afternoon: storescp, pyradiomics, highdicom, storescu.

    storescp --sort-on-study-uid in --exec-on-eostudy "python afternoon.py #p HOST PORT SPACING" --eostudy-timeout 1 ...

Each library is called as its documentation shows. It has no store, no retries, no proof of delivery, no model, no deep
features and no second study at the same time: what it needs for an answer is the least that anything needs.
"""

import json
import subprocess
import sys
import time
from pathlib import Path


def main(folder: Path, host: str, port: str, spacing: float) -> None:
    began = time.perf_counter()
    stages: dict[str, float] = {}

    def done(stage: str) -> None:
        nonlocal began
        stages[stage] = time.perf_counter() - began
        began = time.perf_counter()

    import numpy as np
    import SimpleITK
    from pydicom import dcmread
    from radiomics.featureextractor import RadiomicsFeatureExtractor
    from skimage.draw import polygon2mask

    done("imports")
    datasets = [dcmread(path) for path in sorted(folder.iterdir()) if path.is_file()]
    ct = sorted((one for one in datasets if one.Modality == "CT"), key=lambda one: float(one.ImagePositionPatient[2]))
    rtstruct = next(one for one in datasets if one.Modality == "RTSTRUCT")
    volume = np.stack([one.pixel_array * float(one.RescaleSlope) + float(one.RescaleIntercept) for one in ct])
    done("read CT")
    mask = np.zeros(volume.shape, np.uint8)
    places = {round(float(one.ImagePositionPatient[2]), 3): place for place, one in enumerate(ct)}
    origin, (height, width) = ct[0].ImagePositionPatient, ct[0].PixelSpacing
    for contour in rtstruct.ROIContourSequence[0].ContourSequence:
        points = np.array(contour.ContourData, float).reshape(-1, 3)
        indices = np.stack([(points[:, 1] - origin[1]) / height, (points[:, 0] - origin[0]) / width], axis=1)
        mask[places[round(points[0, 2], 3)]] ^= polygon2mask(volume.shape[1:], indices).astype(np.uint8)
    done("contour to mask")
    image, label = SimpleITK.GetImageFromArray(volume), SimpleITK.GetImageFromArray(mask)
    step = float(ct[1].ImagePositionPatient[2]) - float(origin[2])
    for one in (image, label):
        one.SetSpacing((float(width), float(height), step))
        one.SetOrigin([float(value) for value in origin])
    extractor = RadiomicsFeatureExtractor(
        binWidth=25, resampledPixelSpacing=[spacing] * 3, interpolator="sitkBSpline", resegmentRange=[-1000, 400]
    )
    found = extractor.execute(image, label)
    features = {name: float(value) for name, value in found.items() if name.startswith("original_")}
    done("features")
    report, capture = objects(ct, rtstruct, mask, features)
    paths = [folder.parent / "sr.dcm", folder.parent / "sc.dcm"]
    for one, path in zip((report, capture), paths, strict=True):
        one.save_as(path)
    done("SR and SC")
    subprocess.run(["storescu", "--required", "-aec", "PACS", host, port, *map(str, paths)], check=True)
    done("storescu")
    (folder.parent / "stages.json").write_text(json.dumps(stages))


def objects(ct, rtstruct, mask, features):  # type: ignore[no-untyped-def]
    """A Comprehensive 3D SR of TID 1500 with every feature, and a Secondary Capture of the largest slice."""
    import highdicom
    import numpy as np
    from highdicom import sr
    from pydicom.sr.codedict import codes
    from pydicom.uid import generate_uid

    largest = int(mask.sum(axis=(1, 2)).argmax())
    observer = sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(uid=generate_uid()),
    )
    group = sr.PlanarROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=generate_uid(), identifier="GTV"),
        referenced_region=sr.ImageRegion(
            graphic_type=sr.GraphicTypeValues.POINT,
            graphic_data=np.argwhere(mask[largest])[:1, ::-1].astype(float),
            source_image=sr.SourceImageForRegion.from_source_image(ct[largest]),
        ),
        finding_type=codes.SCT.Neoplasm,
        measurements=[
            sr.Measurement(sr.CodedConcept(name[9:25], "99PEER", name[9:73]), value, codes.UCUM.NoUnits)
            for name, value in features.items()
        ],
    )
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(observer_device_context=observer),
        procedure_reported=codes.LN.CTUnspecifiedBodyRegion,
        imaging_measurements=[group],
    )
    common = {"series_number": 900, "instance_number": 1, "manufacturer": "Afternoon"}
    report = sr.Comprehensive3DSR(
        evidence=[*ct, rtstruct],
        content=content,
        series_instance_uid=generate_uid(),
        sop_instance_uid=generate_uid(),
        is_complete=True,
        **common,
    )
    window = np.clip((ct[largest].pixel_array.astype(float) - 200) / 1500, 0, 1)
    grey = (window * 255).astype(np.uint8)
    colour = np.stack([grey, grey, np.where(mask[largest] > 0, 255, grey)], axis=-1).astype(np.uint8)
    capture = highdicom.sc.SCImage.from_ref_dataset(
        ref_dataset=ct[largest],
        pixel_array=colour,
        photometric_interpretation="RGB",
        bits_allocated=8,
        coordinate_system="PATIENT",
        patient_orientation=("L", "P"),
        series_instance_uid=generate_uid(),
        sop_instance_uid=generate_uid(),
        **common,
    )
    return report, capture


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], float(sys.argv[4]))
