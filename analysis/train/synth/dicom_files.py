"""Writes a synthetic CT series and its RTSTRUCT as DICOM files; every byte follows from the seed.

Attributes per PS3.3 A.3 (CT Image) and A.19 (RT Structure Set). SYNTHETIC stands in the patient's name, the
descriptions and the manufacturer, so that no viewer can show the study without saying so.
"""

import datetime
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, RTStructureSetStorage

from analysis.train.synth import raster
from analysis.train.synth.anatomy import Grid

_NAMESPACE = uuid.UUID("5b3f5d3c-6d2c-5a0e-9a43-2f0b7c1d9e10")  # ours, drawn once; UIDs hang on it
_IMPLEMENTATION_VERSION = "PROGNODE_SYNTH"
_FIRST_DAY = datetime.date(2019, 1, 7)
_INTERCEPT = -1024


@dataclass(frozen=True)
class Study:
    """What the headers say about one synthetic patient; `key` is unique to patient, seed and generator."""

    key: str
    number: int
    seed: int
    age: int
    female: bool
    scanner: str
    kernel: str
    real_chest: bool = False  # the lesion alone is synthetic

    @property
    def patient_id(self) -> str:
        """The identifier, also used in the clinical table and in folder names."""
        return f"SYN-{self.seed}-{self.number:04d}"

    @property
    def date(self) -> datetime.date:
        """Day of the CT."""
        return _FIRST_DAY + datetime.timedelta(days=self.number % 700)

    def uid(self, what: str) -> str:
        """A UUID-derived UID (PS3.5 B.2), the same for the same key."""
        return f"2.25.{uuid.uuid5(_NAMESPACE, f'{self.key}/{what}').int}"


def write_ct(folder: Path, hu: NDArray[np.float32], grid: Grid, study: Study) -> list[Dataset]:
    """Write one file per slice, foot to head; returns the headers without pixels."""
    folder.mkdir(parents=True)
    stored = np.clip(np.rint(hu) - _INTERCEPT, 0, 4095).astype("<u2")
    headers = []
    for index, pixels in enumerate(stored):
        header = _ct_header(study, grid, index)
        file = _file(header)
        file.update(header)
        file.PixelData = pixels.tobytes()
        file["PixelData"].VR = "OW"
        file.save_as(folder / f"CT{index + 1:04d}.dcm", enforce_file_format=True)
        headers.append(header)
    return headers


def write_rtstruct(path: Path, mask: NDArray[np.bool_], grid: Grid, ct: list[Dataset], study: Study) -> None:
    """Write the lesion's contours as ROI GTV-1, closed planar polygons on the CT's slices."""
    header = _common(study, RTStructureSetStorage, study.uid("rtstruct"))
    header.Modality = "RTSTRUCT"
    header.SeriesInstanceUID, header.SeriesNumber = study.uid("rtstruct-series"), "2"
    header.SeriesDescription = "SYNTHETIC contour"
    header.OperatorsName = ""
    header.FrameOfReferenceUID, header.PositionReferenceIndicator = study.uid("frame"), ""
    header.StructureSetLabel, header.StructureSetName = "SYNTHETIC", "SYNTHETIC lesion"
    header.StructureSetDate, header.StructureSetTime = header.StudyDate, "110000"
    header.ReferencedFrameOfReferenceSequence = Sequence([_frame_of_reference(ct, study)])
    roi = Dataset()
    roi.ROINumber, roi.ReferencedFrameOfReferenceUID = "1", study.uid("frame")
    roi.ROIName, roi.ROIGenerationAlgorithm = "GTV-1", "AUTOMATIC"
    header.StructureSetROISequence = Sequence([roi])
    contours = Dataset()
    contours.ROIDisplayColor = ["255", "64", "64"]
    contours.ReferencedROINumber = "1"
    contours.ContourSequence = Sequence(list(_contours(mask, grid, ct)))
    header.ROIContourSequence = Sequence([contours])
    observation = Dataset()
    observation.ObservationNumber = observation.ReferencedROINumber = "1"
    observation.RTROIInterpretedType, observation.ROIInterpreter = "GTV", ""
    header.RTROIObservationsSequence = Sequence([observation])
    header.ApprovalStatus = "UNAPPROVED"
    file = _file(header)
    file.update(header)
    file.save_as(path, enforce_file_format=True)


def _common(study: Study, sop_class_uid: str, sop_instance_uid: str) -> Dataset:
    """Patient, study and equipment modules."""
    header = Dataset()
    day = study.date.strftime("%Y%m%d")
    header.SpecificCharacterSet = "ISO_IR 192"
    header.InstanceCreationDate, header.InstanceCreationTime = day, "100500"
    header.SOPClassUID, header.SOPInstanceUID = sop_class_uid, sop_instance_uid
    header.StudyDate, header.StudyTime = day, "100000"
    header.AccessionNumber = f"SYN{study.seed % 10**6}{study.number:04d}"
    header.Manufacturer = "SYNTHETIC"
    header.InstitutionName = "SYNTHETIC - NOT FOR CLINICAL USE"
    header.ReferringPhysicianName = ""
    header.StationName = study.scanner
    header.StudyDescription = "SYNTHETIC CT CHEST"
    header.ManufacturerModelName = "Prognode cohort synth"
    header.PatientName = f"SYNTHETIC^PATIENT {study.number:04d}"
    header.PatientID = study.patient_id
    born = study.date - datetime.timedelta(days=round((study.age + 0.4) * 365.25))
    header.PatientBirthDate = born.strftime("%Y%m%d")
    header.PatientSex = "F" if study.female else "M"
    header.PatientAge = f"{study.age:03d}Y"
    header.PatientComments = "SYNTHETIC - NOT FOR CLINICAL USE"
    header.DeviceSerialNumber = f"{study.seed}"
    header.SoftwareVersions = "2"
    header.StudyInstanceUID, header.StudyID = study.uid("study"), f"{study.number}"
    return header


def _ct_header(study: Study, grid: Grid, index: int) -> Dataset:
    header = _common(study, CTImageStorage, study.uid(f"ct/{index}"))
    z, y, x = (float(grid.axis(axis)[at]) for axis, at in ((0, index), (1, 0), (2, 0)))
    header.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    header.SeriesDate = header.AcquisitionDate = header.ContentDate = header.StudyDate
    header.SeriesTime = header.AcquisitionTime = header.ContentTime = "100100"
    header.Modality = "CT"
    header.SeriesDescription = (
        "SYNTHETIC lesion in a public chest CT" if study.real_chest else "SYNTHETIC chest, portal venous"
    )
    header.ContrastBolusAgent = "" if study.real_chest else "SYNTHETIC"
    header.BodyPartExamined = "CHEST"
    header.SliceThickness = _ds(grid.spacing_mm[0])
    header.KVP = "120"
    header.DataCollectionDiameter = header.ReconstructionDiameter = _ds(grid.spacing_mm[1] * grid.shape[1])
    header.GantryDetectorTilt = "0"
    header.XRayTubeCurrent, header.ExposureTime, header.Exposure = "220", "500", "110"
    header.ConvolutionKernel = study.kernel
    header.PatientPosition = "HFS"
    header.SeriesInstanceUID, header.SeriesNumber = study.uid("ct-series"), "1"
    header.AcquisitionNumber, header.InstanceNumber = "1", f"{index + 1}"
    header.ImagePositionPatient = [_ds(x), _ds(y), _ds(z)]
    header.ImageOrientationPatient = ["1", "0", "0", "0", "1", "0"]
    header.FrameOfReferenceUID, header.PositionReferenceIndicator = study.uid("frame"), ""
    header.SliceLocation = _ds(z)
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.Rows, header.Columns = grid.shape[1], grid.shape[2]
    header.PixelSpacing = [_ds(grid.spacing_mm[1]), _ds(grid.spacing_mm[2])]
    header.BitsAllocated, header.BitsStored, header.HighBit, header.PixelRepresentation = 16, 12, 11, 0
    header.WindowCenter, header.WindowWidth = ["-600", "40"], ["1500", "400"]
    header.RescaleIntercept, header.RescaleSlope, header.RescaleType = str(_INTERCEPT), "1", "HU"
    return header


def file_meta(header: Dataset) -> FileMetaDataset:
    """File meta information (PS3.10 7.1) of an uncompressed object."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(f"2.25.{_NAMESPACE.int}")
    meta.ImplementationVersionName = _IMPLEMENTATION_VERSION
    return meta


def _file(header: Dataset) -> FileDataset:
    return FileDataset("", {}, file_meta=file_meta(header), preamble=b"\0" * 128)


def _frame_of_reference(ct: list[Dataset], study: Study) -> Dataset:
    series = Dataset()
    series.SeriesInstanceUID = study.uid("ct-series")
    series.ContourImageSequence = Sequence([_image(header) for header in ct])
    referenced = Dataset()
    referenced.ReferencedSOPClassUID = "1.2.840.10008.3.1.2.3.1"  # Detached Study Management, as PS3.3 C.8.8.5 asks
    referenced.ReferencedSOPInstanceUID = study.uid("study")
    referenced.RTReferencedSeriesSequence = Sequence([series])
    frame = Dataset()
    frame.FrameOfReferenceUID = study.uid("frame")
    frame.RTReferencedStudySequence = Sequence([referenced])
    return frame


def _image(header: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = header.SOPClassUID
    item.ReferencedSOPInstanceUID = header.SOPInstanceUID
    return item


def _contours(mask: NDArray[np.bool_], grid: Grid, ct: list[Dataset]) -> Iterator[Dataset]:
    """Outlines half-way between pixel centres: the pixel-centre rule gives the very mask back."""
    z, y, x = grid.axis(0), grid.axis(1), grid.axis(2)
    number = 0
    for index in np.flatnonzero(mask.any(axis=(1, 2))):
        for line in raster.outlines(np.pad(mask[index], 1)):
            points = line[:-1] - 1  # closed by rule, so the first point is not repeated
            rows = float(y[0]) + points[:, 0] * grid.spacing_mm[1]
            columns = float(x[0]) + points[:, 1] * grid.spacing_mm[2]
            number += 1
            item = Dataset()
            item.ContourNumber = f"{number}"
            item.ContourImageSequence = Sequence([_image(ct[index])])
            item.ContourGeometricType = "CLOSED_PLANAR"
            item.NumberOfContourPoints = f"{len(points)}"
            item.ContourData = [
                _ds(value) for column, row in zip(columns, rows, strict=True) for value in (column, row, z[index])
            ]
            yield item


def _ds(value: float) -> str:
    """A decimal string of at most 16 characters, to a ten-thousandth."""
    return f"{float(value):.4f}".rstrip("0").rstrip(".")
