"""CT series and the parts that all synthetic objects share. Tests import from `tests.synthetic`."""

import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

CT = "1.2.840.10008.5.1.4.1.1.2"
INTERCEPT = -1024
LUNG_HU, LESION_HU = -850, 40


def uid(*parts: object) -> str:
    """A UID that depends on nothing but its parts."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, '/'.join(map(str, parts))).int}"


def scene(shape: tuple[int, int, int], spacing: tuple[float, float, float], radius: float, seed: int) -> NDArray[Any]:
    """HU of a textured ball of `radius` mm in the middle of lung; shape and spacing are (slice, row, column)."""
    rng = np.random.default_rng(seed)
    index = np.meshgrid(*[(np.arange(n) - (n - 1) / 2) * s for n, s in zip(shape, spacing, strict=True)], indexing="ij")
    distance = np.sqrt(sum(axis**2 for axis in index))
    coarse = rng.normal(0, 40, tuple(n // 2 + 1 for n in shape))
    texture = np.kron(coarse, np.ones((2, 2, 2)))[: shape[0], : shape[1], : shape[2]]
    hu = np.where(distance <= radius, LESION_HU + texture, LUNG_HU) + rng.normal(0, 12, shape)
    return np.rint(hu).clip(INTERCEPT, 3000)


def patient_and_study(seed: int, **attributes: Any) -> Dataset:
    """What all objects of a study share. Keyword arguments are DICOM keywords and win."""
    dataset = Dataset()
    values: dict[str, Any] = {
        "SpecificCharacterSet": "ISO_IR 100",
        "PatientName": "Synthetic^Patient",
        "PatientID": f"SYN-{seed}",
        "PatientBirthDate": "19500101",
        "PatientSex": "F",
        "PatientAge": "074Y",
        "StudyInstanceUID": uid("study", seed),
        "StudyDate": "20240102",
        "StudyTime": "101500",
        "StudyID": str(seed),
        "StudyDescription": "CT chest",
        "AccessionNumber": f"ACC{seed}",
        "ReferringPhysicianName": "",
        "Manufacturer": "Synthetic scanners",
        "ManufacturerModelName": "Builder",
        "SoftwareVersions": "1",
        "DeviceSerialNumber": "1",
    }
    for keyword, value in (values | attributes).items():
        setattr(dataset, keyword, value)
    return dataset


def ct_series(
    n: int = 12,
    rows: int = 32,
    columns: int = 32,
    spacing: tuple[float, float] = (0.9, 0.9),
    thickness: float = 3.0,
    *,
    seed: int,
    radius: float = 10.0,
    study_instance_uid: str | None = None,
    series_instance_uid: str | None = None,
    frame_of_reference_uid: str | None = None,
    patient_name: str = "Synthetic^Patient",
    patient_id: str | None = None,
    accession_number: str | None = None,
    character_set: str | Sequence[str] = "ISO_IR 100",
    **attributes: Any,
) -> list[Dataset]:
    """An axial CT series in slice order (+z), spacing (row, column) and slice distance `thickness` in mm.

    Further keyword arguments are DICOM keywords put into each instance (`PatientSex="M"`).
    """
    series = series_instance_uid or uid("ct series", seed)
    hu = scene((n, rows, columns), (thickness, *spacing), radius, seed)
    stored = (hu - INTERCEPT).astype("<u2")
    instances = []
    for k in range(n):
        dataset = patient_and_study(
            seed,
            SpecificCharacterSet=character_set,
            PatientName=patient_name,
            PatientID=f"SYN-{seed}" if patient_id is None else patient_id,
            AccessionNumber=f"ACC{seed}" if accession_number is None else accession_number,
            StudyInstanceUID=study_instance_uid or uid("study", seed),
        )
        series_module(dataset, CT, uid(series, k), series, "CT", 2, frame_of_reference_uid or uid("frame", seed))
        dataset.InstanceNumber = k + 1
        dataset.PatientPosition = "HFS"
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
        dataset.AcquisitionNumber = 1
        dataset.KVP = 120
        dataset.ConvolutionKernel = "B30f"
        dataset.BodyPartExamined = "CHEST"
        dataset.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
        dataset.ImagePositionPatient = [-columns * spacing[1] / 2, -rows * spacing[0] / 2, -100 + k * thickness]
        dataset.PixelSpacing = list(spacing)
        dataset.SliceThickness = thickness
        _pixels(dataset, stored[k])
        dataset.RescaleIntercept, dataset.RescaleSlope, dataset.RescaleType = INTERCEPT, 1, "HU"
        for keyword, value in attributes.items():
            setattr(dataset, keyword, value)
        instances.append(with_meta(dataset))
    return instances


def series_module(
    dataset: Dataset, sop_class: str, sop_uid: str, series: str, modality: str, number: int, frame: str
) -> None:
    """General Series and SOP Common; `frame` is the frame of reference, empty for none."""
    dataset.SOPClassUID, dataset.SOPInstanceUID = sop_class, sop_uid
    dataset.SeriesInstanceUID, dataset.Modality, dataset.SeriesNumber = series, modality, number
    dataset.SeriesDate, dataset.SeriesTime = "20240102", "101500"
    dataset.SeriesDescription = f"Synthetic {modality}"
    if frame:
        dataset.FrameOfReferenceUID, dataset.PositionReferenceIndicator = frame, ""


def _pixels(dataset: Dataset, stored: NDArray[Any]) -> None:
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Rows, dataset.Columns = stored.shape[-2:]
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
    dataset.add_new("PixelData", "OW", stored.tobytes())


def with_meta(dataset: Dataset, transfer_syntax_uid: str = ExplicitVRLittleEndian) -> Dataset:
    """The data set itself, given the file meta information that pixel access and saving need."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = dataset.SOPClassUID, dataset.SOPInstanceUID
    meta.TransferSyntaxUID = UID(transfer_syntax_uid)
    dataset.file_meta = meta
    return dataset


def item_of(**values: Any) -> Dataset:
    item = Dataset()
    for keyword, value in values.items():
        setattr(item, keyword, value)
    return item
