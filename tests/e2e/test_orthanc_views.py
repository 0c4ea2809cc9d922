"""What Orthanc shows of the results, over REST and over DICOMweb: each object as a viewer gets it is what was drawn."""

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from pydicom import Dataset, dcmread

from dicom_node.workitem import WorkItem
from tests.e2e.node import completed, deliveries_of, destination, kind_of, serving, spool_of, write_settings
from tests.e2e.orthanc import AE_TITLE, DICOM_PORT, DICOMWEB, NODE_PORT, Orthanc, orthanc
from tests.synthetic import ball_mask, ct_series, rtstruct, save, save_all
from tests.validators import dciodvfy

pytestmark = pytest.mark.orthanc
OBJECTS = {"risk-sr", "radiomics-sr", "page-1", "page-2", "segmentation", "presentation-state", "pages-pdf"}


@dataclass
class Filed:
    """A study with its results in Orthanc: each object by document name, with Orthanc's id of it."""

    pacs: Orthanc
    folder: Path
    item: WorkItem
    ct: list[Dataset]
    ids: dict[str, str]
    objects: dict[str, Dataset]

    def report(self, name: str) -> Path:
        return spool_of(self.folder).results(self.item.key or "", "report") / name

    def picture(self, path: str) -> NDArray[np.uint8]:
        return np.asarray(Image.open(io.BytesIO(self.pacs.raw(path, accept="image/png"))))

    def web(self, name: str) -> str:
        """DICOMweb resource of an object."""
        dataset = self.objects[name]
        study, series = dataset.StudyInstanceUID, dataset.SeriesInstanceUID
        return f"/dicom-web/studies/{study}/series/{series}/instances/{dataset.SOPInstanceUID}"


@pytest.fixture(scope="module")
def filed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filed]:
    folder = tmp_path_factory.mktemp("views")
    with orthanc(folder / "orthanc") as pacs:
        node_folder = folder / "node"
        write_settings(
            node_folder,
            destination(AE_TITLE, DICOM_PORT) | {"sends": True},
            port=NODE_PORT,
            deliver={"commitment_wait_seconds": 60.0},  # Orthanc reports when it has time
            report={"encapsulated_pdf": True, "language": "de"},
        )
        with serving(node_folder):
            ct = ct_series(16, 40, 40, seed=61)
            for path in [*save_all(ct, folder / "study"), save(rtstruct(ct), folder / "study")]:
                pacs.upload(path)
            item = completed(node_folder, ct[0].StudyInstanceUID)
            ids, objects = {}, {}
            for series in pacs.series_of(ct[0].StudyInstanceUID):
                if series["MainDicomTags"]["Modality"] not in ("CT", "RTSTRUCT"):
                    for one in series["Instances"]:
                        dataset = dcmread(io.BytesIO(pacs.raw(f"/instances/{one}/file")))
                        ids[kind_of(dataset)], objects[kind_of(dataset)] = one, dataset
            yield Filed(pacs, node_folder, item, ct, ids, objects)


def test_orthanc_takes_every_object_and_proves_it(filed: Filed, tmp_path: Path) -> None:
    assert set(filed.objects) == OBJECTS
    states = {row.document: str(row.state) for row in deliveries_of(filed.folder, filed.item)}
    assert states == dict.fromkeys(OBJECTS, "COMMITTED")
    for name, dataset in filed.objects.items():
        path = tmp_path / f"{name}.dcm"
        dataset.save_as(path)
        assert dciodvfy(path) == [], name


@pytest.mark.parametrize("page", ["page-1", "page-2"])
def test_a_page_is_rendered_pixel_for_pixel_as_it_was_drawn(filed: Filed, page: str) -> None:
    drawn = np.asarray(Image.open(filed.report(f"{page}.png")).convert("RGB"))
    assert np.array_equal(filed.picture(f"/instances/{filed.ids[page]}/rendered")[..., :3], drawn)
    assert np.array_equal(filed.picture(f"/instances/{filed.ids[page]}/preview")[..., :3], drawn)


@pytest.mark.parametrize("page", ["page-1", "page-2"])
def test_a_page_is_rendered_over_dicomweb_too(filed: Filed, page: str) -> None:
    _need_dicomweb()
    drawn = np.asarray(Image.open(filed.report(f"{page}.png")).convert("RGB"))
    assert np.array_equal(filed.picture(f"{filed.web(page)}/rendered")[..., :3], drawn)


def test_the_pdf_comes_out_as_the_bytes_that_went_in(filed: Filed) -> None:
    sent = dcmread(filed.report("pages-pdf.dcm"))
    content = bytes(sent.EncapsulatedDocument)[: sent.EncapsulatedDocumentLength]
    assert filed.pacs.raw(f"/instances/{filed.ids['pages-pdf']}/pdf")[: len(content)] == content
    assert b"/Lang (de)" in content


def test_the_seg_s_frames_are_rendered_as_the_voxels_that_were_scored(filed: Filed) -> None:
    mask = ball_mask(filed.ct)
    frames = filed.objects["segmentation"].PerFrameFunctionalGroupsSequence
    place = {str(one.SOPInstanceUID): k for k, one in enumerate(filed.ct)}
    for number, frame in enumerate(frames):
        source = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        shown = filed.picture(f"/instances/{filed.ids['segmentation']}/frames/{number}/rendered")
        grey = shown if shown.ndim == 2 else shown[..., 0]
        assert np.array_equal(grey > 0, mask[place[str(source)]])


def test_the_presentation_state_over_orthanc_s_own_view_of_the_ct_circles_the_tumour(filed: Filed) -> None:
    """Orthanc applies no presentation state: its rendering of each slice, and our lines on it as a viewer draws."""
    state = filed.objects["presentation-state"]
    (window,) = state.SoftcopyVOILUTSequence
    mask = ball_mask(filed.ct)
    place = {str(one.SOPInstanceUID): k for k, one in enumerate(filed.ct)}
    for annotation in state.GraphicAnnotationSequence:
        uid = str(annotation.ReferencedImageSequence[0].ReferencedSOPInstanceUID)
        (instance,) = filed.pacs.find("Instance", SOPInstanceUID=uid)
        options = f"window-center={window.WindowCenter:g}&window-width={window.WindowWidth:g}"
        shown = filed.picture(f"/instances/{instance}/rendered?{options}").astype(float)
        inside = _inside(annotation, shown.shape[:2])
        assert np.array_equal(inside, mask[place[uid]])
        core, rim = inside, _grown(inside) & ~inside
        assert shown[core].mean() > 170 > 120 > shown[rim].mean(), "soft tissue within, aerated lung without"


def test_the_results_are_found_by_qido_and_retrieved_by_wado(filed: Filed) -> None:
    _need_dicomweb()
    study = filed.ct[0].StudyInstanceUID
    found = _json(filed, f"/dicom-web/studies?StudyInstanceUID={study}&includefield=ModalitiesInStudy")
    assert len(found) == 1
    assert set(found[0]["00080061"]["Value"]) == {"CT", "RTSTRUCT", "SR", "OT", "SEG", "PR", "DOC"}
    series = _json(filed, f"/dicom-web/studies/{study}/series?includefield=SeriesDescription")
    ours = [one for one in series if one["0008103E"]["Value"][0].startswith("AI: Prognode")]
    assert len(ours) == 6, "two SRs, the pages, SEG, presentation state and PDF"
    for name, dataset in filed.objects.items():
        (described,) = _json(filed, f"{filed.web(name)}/metadata")
        assert described["00080018"]["Value"] == [dataset.SOPInstanceUID], name
        assert described["00080016"]["Value"] == [dataset.SOPClassUID], name
        assert described["00100010"]["Value"][0]["Alphabetic"] == str(filed.ct[0].PatientName), name
        body = filed.pacs.raw(filed.web(name), accept='multipart/related; type="application/dicom"')
        assert str(dataset.SOPInstanceUID).encode() in body, name


def _need_dicomweb() -> None:
    if not DICOMWEB.exists():
        pytest.skip("the DICOMweb plugin is not here (Debian: orthanc-dicomweb)")


def _json(filed: Filed, path: str) -> list[dict[str, Any]]:
    return list(json.loads(filed.pacs.raw(path, accept="application/dicom+json")))


def _inside(annotation: Dataset, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Filled lines: drawn at eight times the size, a pixel is in when its centre is (PS3.3 C.10.5.1.2)."""
    big = Image.new("1", (shape[1] * 8, shape[0] * 8))
    inside = np.zeros((shape[0] * 8, shape[1] * 8), bool)
    for line in annotation.GraphicObjectSequence:
        one = big.copy()
        ImageDraw.Draw(one).polygon([8 * float(value) for value in line.GraphicData], fill=1)
        inside ^= np.asarray(one)
    return inside[4::8, 4::8]


def _grown(inside: NDArray[np.bool_]) -> NDArray[np.bool_]:
    grown = inside.copy()
    for axis in (0, 1):
        for step in (-2, 2):
            grown |= np.roll(inside, step, axis)
    return grown
