"""Studies to measure with: public data written as DICOM."""

import os
from pathlib import Path

import numpy as np

SHARED = Path(os.environ.get("PROGNODE_SHARED", Path(__file__).resolve().parents[2] / "shared")) / "data"


def lung2_as_dicom(folder: Path, *, thin: bool = False, number: int = 2) -> Path:
    """Write the public chest CT `lung2` as a CT series with an RTSTRUCT of its label: 61 slices of 5 mm.

    `thin`: 300 slices of 1 mm instead, interpolated between them; the lesion keeps its 48 mL. `number`: of the patient.
    """
    import SimpleITK

    from analysis.train.synth.anatomy import Grid
    from analysis.train.synth.dicom_files import Study, write_ct, write_rtstruct

    image = SimpleITK.ReadImage(str(SHARED / "pyradiomics_lung" / "lung2_image.nrrd"))
    label = SimpleITK.ReadImage(str(SHARED / "pyradiomics_lung" / "lung2_label.nrrd"))
    hu = SimpleITK.GetArrayFromImage(image).astype(np.float32)
    lesion = (SimpleITK.GetArrayFromImage(label) > 0).astype(np.float32)
    width, height, step = image.GetSpacing()
    if thin:
        place = np.arange(300) / step
        below, share = place.astype(int), (place % 1).astype(np.float32)[:, None, None]
        hu, lesion = ((1 - share) * one[below] + share * one[below + 1] for one in (hu, lesion))
        step = 1.0
    grid = Grid(hu.shape, (step, height, width))
    key = f"lung2 {step:g} {number}"
    study = Study(key=key, number=number, seed=2, age=60, female=False, scanner="LUNG2", kernel="B30f")
    headers = write_ct(folder / "ct", hu, grid, study)
    write_rtstruct(folder / "rtstruct.dcm", lesion >= 0.5, grid, headers, study)
    return folder


def named_anew(source: Path, folder: Path) -> Path:
    """The same study under other UIDs: references among its objects stay what they are."""
    from pydicom import Dataset, dcmread

    folder.mkdir(parents=True)
    keywords = ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
    keywords += ("ReferencedSOPInstanceUID", "ReferencedFrameOfReferenceUID")
    classes = "1.2.840.10008."

    def rename(dataset: Dataset) -> None:
        for element in dataset:
            if element.VR == "SQ":
                for item in element.value:
                    rename(item)
            elif element.keyword in keywords and not str(element.value).startswith(classes):
                element.value = f"{str(element.value)[:60]}.2"

    for number, path in enumerate(sorted(source.rglob("*.dcm"))):
        dataset = dcmread(path)
        rename(dataset)
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.save_as(folder / f"{number:05d}.dcm")
    return folder
