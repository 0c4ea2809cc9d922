"""The PDF: real text of the same pages in the language of the site, embedded fonts, the same bytes each time."""

import io
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from PIL import Image
from pydicom.dataset import Dataset
from reportlab.pdfbase import pdfmetrics

from analysis.contract import Reason
from reports import build, page, pdf, words
from reports.context import Change, Changed
from reports.language import CODES
from reports.shapes import BLACK, CONTOUR, Ink, contrast
from tests.paths import ROOT
from tests.report_inputs import BUNDLE, EVERYTHING, context, objects, pictures, result, scored, short, small_case
from tests.validators import dciodvfy

CASE = small_case()


def tool(name: str, *arguments: str, content: bytes, folder: Path) -> str:
    if shutil.which(name) is None:
        pytest.skip(f"{name} is not here (Debian: poppler-utils)")
    path = folder / "pages.pdf"
    path.write_bytes(content)
    command = [name, *(str(path) if one == "FILE" else one for one in arguments)]
    done = subprocess.run(command, capture_output=True, check=True, timeout=60, cwd=folder)
    return done.stdout.decode()


def content_of(dataset: Dataset) -> bytes:
    return bytes(dataset.EncapsulatedDocument)[: dataset.EncapsulatedDocumentLength]


def encapsulated(**changes: object) -> Dataset:
    return objects(scored(CASE, **changes))["pdf"]


@cache
def told_in(language: str) -> bytes:
    return content_of(encapsulated(language=language))


def squeezed(text: str) -> str:
    return "".join(text.split())


@pytest.mark.parametrize("language", short(CODES, "de", "ja", "ko"))
def test_the_text_of_every_page_can_be_found_and_copied(language: str, tmp_path: Path) -> None:
    text = squeezed(tool("pdftotext", "-raw", "FILE", "-", content=told_in(language), folder=tmp_path))
    told = result(CASE.mask)
    assert told.sub_model is not None
    for part in (
        words.research_use(language),
        words.synthetic_warning(language),
        *(words.natural_frequency(score, language) for score in told.scores),
        *(words.figures(performance, language) for performance in told.sub_model.performance),
    ):
        assert squeezed(part) in text, part


@pytest.mark.parametrize("language", short(CODES, "de", "ja", "ko"))
def test_every_font_is_embedded_and_mapped_to_unicode(language: str, tmp_path: Path) -> None:
    lines = tool("pdffonts", "FILE", content=told_in(language), folder=tmp_path).splitlines()[2:]
    assert len(lines) >= 2, "regular and bold"
    for line in lines:
        assert line.split()[-5:-2] == ["yes", "yes", "yes"], line


def test_the_document_names_its_language_title_and_time(tmp_path: Path) -> None:
    dataset = encapsulated(language="fr")
    assert b"/Lang (fr)" in content_of(dataset)
    facts = tool("pdfinfo", "FILE", content=content_of(dataset), folder=tmp_path)
    assert dataset.DocumentTitle in facts
    assert "Author:          Prognode" in facts
    assert "2026" in facts.split("CreationDate:")[1].splitlines()[0], "of the report, not of a clock"
    assert "Pages:           2" in facts


def test_another_process_makes_the_same_bytes() -> None:
    code = (
        "import hashlib, sys; from tests.report_inputs import *; from tests.report_inputs import scored, small_case;"
        "sys.stdout.write(hashlib.sha256(part10(scored(small_case(), language='ja').pdf)).hexdigest())"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120, cwd=ROOT)
        for _ in range(2)
    ]
    assert runs[0].stdout == runs[1].stdout
    assert len(runs[0].stdout) == 64


def test_the_pages_of_the_pdf_are_those_of_the_secondary_capture(tmp_path: Path) -> None:
    """Each mark in its place: drawn by poppler, the page's own colours aside, ink is where ink is."""
    tool("pdftoppm", "-r", "72", "-png", "FILE", "page", content=content_of(encapsulated()), folder=tmp_path)
    canvases = page.pages(result(CASE.mask), pictures(CASE.mask), context(), page.KeySlice("7", standard_axial=True))
    for number, canvas in enumerate(canvases, start=1):
        printed = Image.open(tmp_path / f"page-{number}.png").convert("L")
        scale = printed.height / 768
        left = (printed.width - 1024 * scale) / 2
        for ink in canvas.inks:
            box = (
                left + ink.box.left * scale,
                ink.box.top * scale,
                left + ink.box.right * scale,
                ink.box.bottom * scale,
            )
            low, high = printed.crop(tuple(round(edge) for edge in box)).getextrema()
            assert high - low > 60, f"{ink.text!r} is not at its place"


def test_every_text_can_be_read_on_paper() -> None:
    for canvas in page.pages(result(CASE.mask), pictures(CASE.mask), context()):
        for ink in canvas.inks:
            assert contrast(pdf.on_paper(ink.colour, ink.ground), paper_under(ink)) >= 4.5, ink.text


def paper_under(ink: Ink) -> tuple[int, int, int]:
    return ink.ground if ink.ground in (BLACK, CONTOUR) else pdf.on_paper(ink.ground)


def test_what_was_made_before_changes_nothing_and_leaves_nothing_behind() -> None:
    """reportlab keeps fonts for the life of the process, and knows them by name."""
    known = set(pdfmetrics.getRegisteredFontNames()), set(pdfmetrics._dynFaceNames)
    first = {language: content_of(encapsulated(language=language)) for language in ("de", "ja")}
    again = {language: content_of(encapsulated(language=language)) for language in ("ja", "de")}
    assert first == again
    assert (set(pdfmetrics.getRegisteredFontNames()), set(pdfmetrics._dynFaceNames)) == known


def test_the_object_is_valid_and_says_what_it_is(tmp_path: Path) -> None:
    dataset = encapsulated(revision=2, changes=(Changed(Change.BUNDLE),))
    path = tmp_path / "pdf.dcm"
    dataset.save_as(path)
    assert dciodvfy(path) == []
    assert (dataset.Modality, dataset.MIMETypeOfEncapsulatedDocument) == ("DOC", "application/pdf")
    assert (dataset.BurnedInAnnotation, dataset.VerificationFlag) == ("NO", "UNVERIFIED")
    assert len(dataset.EncapsulatedDocument) % 2 == 0
    assert content_of(dataset).startswith(b"%PDF-1.7")
    assert content_of(dataset).rstrip().endswith(b"%%EOF")
    referenced = {item.ReferencedSOPInstanceUID for item in dataset.SourceInstanceSequence}
    assert referenced == {CASE.ct[0].SOPInstanceUID, CASE.roi.SOPInstanceUID}
    text = tool("pdftotext", "-raw", "FILE", "-", content=content_of(dataset), folder=tmp_path)
    assert squeezed("Revision 2, replaces revision 1. Changed: model bundle.") in squeezed(text)


def test_no_name_and_no_identifier_is_in_the_document(tmp_path: Path) -> None:
    case = small_case(patient_name="MARKEDNAME^X", patient_id="MARKEDID", accession_number="MARKEDACC")
    content = content_of(objects(scored(case))["pdf"])
    text = tool("pdftotext", "-raw", "FILE", "-", content=content, folder=tmp_path)
    assert "MARKED" not in text
    assert b"MARKED" not in content


@pytest.mark.parametrize("reason", [Reason.MISSING_SLICE, Reason.REFERENCED_CT_INCOMPLETE])
def test_a_study_without_a_score_has_its_pdf_too(reason: Reason, tmp_path: Path) -> None:
    refusal = build.Refusal(reason, "58 of 60 images are here", BUNDLE)
    made = build.not_scored([*CASE.ct, CASE.roi], refusal, context(language="de"), optional=EVERYTHING)
    assert made.presentation_state is None
    dataset = objects(made)["pdf"]
    path = tmp_path / "pdf.dcm"
    dataset.save_as(path)
    assert dciodvfy(path) == []
    text = squeezed(tool("pdftotext", "-raw", "FILE", "-", content=content_of(dataset), folder=tmp_path))
    for part in (
        words.reason(reason, "de").sentence,
        words.reason(reason, "de").remedy,
        "58 von 60 Bildern liegen vor",
    ):
        assert squeezed(part) in text


def test_without_the_setting_there_is_none() -> None:
    case = small_case()
    made = build.scored(case.ct, case.roi, case.mask, None, result(case.mask), context())
    assert made.pdf is None
    assert made.presentation_state is None


def test_it_is_smaller_than_a_page_as_an_image() -> None:
    made = objects(scored(CASE))
    assert len(made["pdf"].EncapsulatedDocument) < 300_000
    assert io.BytesIO(content_of(made["pdf"])).read(5) == b"%PDF-"
