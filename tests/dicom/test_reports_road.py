"""Every object of every path of the real road is valid: scored, refused by planner or job, revised; real and odd CT."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydicom import Dataset, dcmread

from config.settings import Report
from dicom_node.compose import DOCUMENTS
from dicom_node.workitem import WorkItem
from reports import words
from reports.language import CODES
from tests.paths import shared
from tests.report_inputs import short
from tests.road import Road, road
from tests.synthetic import ct_series, drop_slice, enhanced_ct, rtstruct
from tests.validators import dciodvfy, dsr2text, dsrdump, pixelmed

SCORED = set(DOCUMENTS)
NOT_SCORED = {"risk-sr", "page-1", "pages-pdf"}
NAMES = {
    "latin": ("ISO_IR 100", "Müller-Lüdenscheidt^Jörg"),
    "cyrillic": ("ISO_IR 144", "Иванов^Пётр"),
    "greek": ("ISO_IR 126", "Παπαδόπουλος^Γιώργος"),
    "arabic": ("ISO_IR 127", "قباني^لنزار"),
    "japanese": (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    "korean": (["", "ISO 2022 IR 149"], "Hong^Gildong=洪^吉洞=홍^길동"),
    "chinese": ("GB18030", "Wang^XiaoDong=王^小东"),
}
Make = Callable[[], list[Dataset]]


def of_folder(*parts: str) -> list[Dataset]:
    return [dcmread(path) for path in sorted(shared("data", *parts).rglob("*.dcm"))]


def small(seed: int = 71, **attributes: object) -> list[Dataset]:
    ct = ct_series(16, 40, 40, seed=seed, **attributes)
    return [*ct, rtstruct(ct)]


def without_birth_date() -> list[Dataset]:
    datasets = small(72)
    for dataset in datasets:
        del dataset.PatientBirthDate
    return datasets


def multi_frame() -> list[Dataset]:
    full = enhanced_ct(ct_series(16, 40, 40, seed=73))
    return [full, rtstruct(full)]


SOURCES: dict[str, Make] = {
    "IBSI phantom": lambda: of_folder("ibsi_1_ct_phantom", "dicom"),
    "sarcoma 005": lambda: of_folder("sts_005", "CT"),
    "no birth date": without_birth_date,
    "Enhanced CT": multi_frame,
    **{name: lambda c=c, p=p: small(74, character_set=c, patient_name=p) for name, (c, p) in NAMES.items()},
}


def refused_by_the_planner() -> list[Dataset]:
    ct = ct_series(16, 40, 40, seed=75)
    short = drop_slice(ct, 7)
    return [*short, rtstruct(short)]


def refused_by_the_job() -> list[Dataset]:
    ct = ct_series(16, 40, 40, seed=76)
    contour = rtstruct(ct)
    for item in contour.ROIContourSequence[0].ContourSequence:  # far outside the image: only the job looks at points
        item.ContourData = [value + 500 for value in item.ContourData]
    return [*ct, contour]


@dataclass
class Ran:
    road: Road
    item: WorkItem

    def files(self) -> dict[str, Path]:
        folder = self.road.report(self.item, "")
        return {path.name.removesuffix(".dcm"): path for path in sorted(folder.glob("*.dcm"))}


def run(folder: Path, datasets: list[Dataset], language: str = "en") -> Ran:
    """Through spool, store, worker and job, with every optional object."""
    there = road(folder, report=Report(language=language, encapsulated_pdf=True))  # type: ignore[arg-type]
    there.take(*datasets)
    there.work()
    there.later(100 * 3600)
    return Ran(there, there.items[0])


def assert_valid(ran: Ran, documents: set[str]) -> None:
    """0 findings of dciodvfy in every object and in every SOP class of an SR; DCMTK reads every SR."""
    files = ran.files()
    assert documents <= set(files)
    assert {name.partition(".")[0] for name in files} == documents
    for name, path in files.items():
        assert dciodvfy(path) == [], name
        if "-sr" in name:
            assert dsrdump(path)
            assert words.research_use(ran.road.settings.report.language) in dsr2text(path)


def assert_identity(ran: Ran, source: Dataset) -> None:
    for name, path in ran.files().items():
        dataset = dcmread(path, stop_before_pixels=True)
        for keyword in ("PatientName", "PatientID", "StudyInstanceUID", "AccessionNumber"):
            assert str(dataset.get(keyword, "")) == str(source.get(keyword, "")), (name, keyword)
        assert dataset.SpecificCharacterSet == "ISO_IR 192"


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")  # values of real data that no rule allows
@pytest.mark.parametrize(
    "source", short(SOURCES, "IBSI phantom", "sarcoma 005", "no birth date", "Enhanced CT", "arabic", "japanese")
)
def test_every_object_of_a_scored_study_is_valid(source: str, tmp_path: Path) -> None:
    datasets = SOURCES[source]()
    ran = run(tmp_path, datasets)
    assert ran.item.outcome == "SCORED", ran.item.reason
    assert_valid(ran, SCORED)
    assert_identity(ran, datasets[0])


@pytest.mark.parametrize("language", short(CODES, "fr"))
@pytest.mark.parametrize("path", ["planner", "job"])
def test_every_object_of_a_study_that_was_not_scored_is_valid(path: str, language: str, tmp_path: Path) -> None:
    datasets = refused_by_the_planner() if path == "planner" else refused_by_the_job()
    ran = run(tmp_path, datasets, language)
    expected = {"planner": "MISSING_SLICE", "job": "ROI_OUTSIDE_IMAGE"}
    assert (ran.item.outcome, ran.item.reason) == ("NOT_SCORED", expected[path])
    assert_valid(ran, NOT_SCORED)
    assert_identity(ran, datasets[0])


@pytest.mark.parametrize("language", short(CODES, "es"))
def test_every_object_of_a_revision_is_valid_and_says_what_changed(language: str, tmp_path: Path) -> None:
    first = small(77)
    ran = run(tmp_path, first, language)
    before = ran.files()["risk-sr"]
    contour = rtstruct(first[:-1], radius=7.0)
    ran.road.take(contour)
    ran.road.later(100 * 3600)
    newest = Ran(ran.road, ran.road.items[0])
    assert newest.item.revision == 2
    assert_valid(newest, SCORED)
    revised = dcmread(newest.files()["risk-sr"])
    series = revised.PredecessorDocumentsSequence[0].ReferencedSeriesSequence[0]
    assert series.ReferencedSOPSequence[0].ReferencedSOPInstanceUID == dcmread(before).SOPInstanceUID
    changed = {"en": "contour", "de": "Kontur", "fr": "contour", "es": "contorno", "ja": "輪郭", "ko": "윤곽"}
    assert changed[language] in dsr2text(newest.files()["risk-sr"])
    for name in ("segmentation", "presentation-state"):
        assert dcmread(newest.files()[name]).ContentDescription.endswith("revision 2"), name
    for name, path in newest.files().items():
        assert "rev 2" in dcmread(path, stop_before_pixels=True).SeriesDescription, name


@pytest.mark.exhaustive
@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
@pytest.mark.parametrize("source", short(["IBSI phantom", "sarcoma 005", "Enhanced CT", "arabic"], "arabic"))
def test_pixelmed_finds_no_error_in_the_srs_of_a_scored_study(source: str, tmp_path: Path) -> None:
    ran = run(tmp_path, SOURCES[source]())
    for name in ("risk-sr", "radiomics-sr"):
        assert pixelmed(ran.files()[name]) == [], name


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("path", short(["planner", "job"], "job"))
def test_pixelmed_finds_no_error_in_the_sr_of_a_refusal(path: str, tmp_path: Path) -> None:
    datasets = refused_by_the_planner() if path == "planner" else refused_by_the_job()
    assert pixelmed(run(tmp_path, datasets).files()["risk-sr"]) == []


def test_the_same_inputs_give_the_same_bytes_in_every_object(tmp_path: Path) -> None:
    made = [run(tmp_path / name, small(78), "ja").files() for name in ("one", "other")]
    assert made[0].keys() == made[1].keys()
    for name, path in made[0].items():
        assert path.read_bytes() == made[1][name].read_bytes(), name
