"""The objects in each language: valid, the same codes and numbers, every text told, nothing of it English."""

from functools import cache
from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from analysis.contract import FailedFeature, Reason
from reports import build, codes, words
from reports.context import Change, Changed
from reports.language import CODES, speaker
from tests.report_inputs import BUNDLE, EVERYTHING, context, objects, part10, pictures, result, short, small_case
from tests.unit.test_page_layout import TOLD
from tests.validators import dciodvfy, dsr2text, pixelmed

LANGUAGES = tuple(code for code in CODES if code != "en")
CASE = small_case()
REVISED = {"revision": 2, "changes": (Changed(Change.CONTOUR), Changed(Change.CLINICAL, ("Albumin",)))}
# Texts that are made of names, codes and figures alone.
OF_NO_LANGUAGE = ("Model bundle", "Software version", "Extraction setting", "Names in LIFEx 7", "Clinical value used")


@cache
def made(language: str, revised: bool = False) -> build.Documents:
    failed = (FailedFeature(name="original_ngtdm_Coarseness", why="not a finite number for this ROI"),)
    told, views = result(CASE.mask, quality=TOLD, failed_features=failed), pictures(CASE.mask)
    return build.scored(
        CASE.ct,
        CASE.roi,
        CASE.mask,
        views,
        told,
        context(language=language, **(REVISED if revised else {})),
        optional=EVERYTHING,
    )


@cache
def refused(language: str) -> build.Documents:
    refusal = build.Refusal(
        Reason.MISSING_SLICE, "gap of 6.00 mm between slices 12 and 13, usual 3.00 mm", BUNDLE, TOLD
    )
    return build.not_scored([*CASE.ct, CASE.roi], refusal, context(language=language), optional=EVERYTHING)


def items(item: Dataset) -> list[Dataset]:
    return [item, *(found for child in item.get("ContentSequence", []) for found in items(child))]


def texts(document: Dataset) -> list[tuple[str, str]]:
    """Label and value of each text that is ours: what the templates add are names (device, algorithm)."""
    return [
        (item.ConceptNameCodeSequence[0].CodeMeaning, item.TextValue)
        for item in items(document)
        if item.get("ValueType") == "TEXT" and item.ConceptNameCodeSequence[0].CodingSchemeDesignator == codes.SCHEME
    ]


def written(folder: Path, dataset: Dataset, name: str) -> Path:
    path = folder / f"{name}.dcm"
    path.write_bytes(part10(dataset))
    return path


@pytest.mark.parametrize("language", short(LANGUAGES, "de", "ko"))
def test_dciodvfy_finds_no_error_in_any_object_of_any_path(language: str, tmp_path: Path) -> None:
    for path, documents in (
        ("first", made(language)),
        ("next", made(language, revised=True)),
        ("none", refused(language)),
    ):
        for name, dataset in objects(documents).items():
            assert dciodvfy(written(tmp_path, dataset, f"{path}-{name}")) == [], (path, name)


@pytest.mark.parametrize("language", short(LANGUAGES, "ja"))
def test_pixelmed_finds_no_error_in_the_risk_report(language: str, tmp_path: Path) -> None:
    assert pixelmed(written(tmp_path, made(language, revised=True).risk_sr, "risk")) == []


@pytest.mark.exhaustive
@pytest.mark.parametrize(("language", "which"), [("ja", "radiomics_sr"), ("ko", "not_scored"), ("fr", "radiomics_sr")])
def test_pixelmed_finds_no_error_in_the_other_reports(language: str, which: str, tmp_path: Path) -> None:
    document = refused(language).risk_sr if which == "not_scored" else getattr(made(language), which)
    assert pixelmed(written(tmp_path, document, which)) == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_report_names_its_language_and_keeps_codes_and_numbers(language: str) -> None:
    english, told = (made(code).risk_sr for code in ("en", language))
    named = next(
        item
        for item in items(told)
        if item.get("ConceptCodeSequence") and item.ConceptCodeSequence[0].CodingSchemeDesignator == "RFC5646"
    )
    value = named.ConceptCodeSequence[0]
    assert (value.CodeValue, value.CodeMeaning) == (language, speaker(language).name)

    def unspoken(document: Dataset) -> list[str]:
        """Codes, meanings and numbers in the order of the tree."""
        found = []
        for item in items(document):
            if item.get("ConceptNameCodeSequence"):
                name = item.ConceptNameCodeSequence[0]
                found.append(f"{name.CodeValue} {name.CodingSchemeDesignator} {name.CodeMeaning}")
            if item.get("ValueType") == "NUM":
                found.append(str(item.MeasuredValueSequence[0].NumericValue))
            if item.get("ValueType") == "CODE" and item is not named and "RFC5646" not in str(item.ConceptCodeSequence):
                found.append(item.ConceptCodeSequence[0].CodeMeaning)
        return found

    assert unspoken(english) == unspoken(told)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("which", ["risk", "radiomics", "not scored"])
def test_no_text_of_a_report_is_left_in_english(language: str, which: str) -> None:
    def document(code: str) -> Dataset:
        if which == "not scored":
            return refused(code).risk_sr
        documents = made(code, revised=True)
        found = documents.risk_sr if which == "risk" else documents.radiomics_sr
        assert found is not None
        return found

    english, told = texts(document("en")), texts(document(language))
    assert [label for label, _ in english] == [label for label, _ in told]
    for (label, before), (_, now) in zip(english, told, strict=True):
        if label not in OF_NO_LANGUAGE:
            assert now != before, label


@pytest.mark.parametrize("language", LANGUAGES)
def test_dcmtk_renders_every_sentence_beside_its_label(language: str, tmp_path: Path) -> None:
    text = dsr2text(written(tmp_path, made(language, revised=True).risk_sr, "risk"))
    told = result(CASE.mask)
    squeezed = "".join(text.split())
    for label, value in (
        ("Statement of use", words.research_use(language)),
        ("In words, death within 12 months", words.natural_frequency(told.scores[0], language)),
        ("Interval, death within 12 months", words.interval_sentence(told.scores[0], language)),
        ("Not available for this score", words.not_available(told, language)[0]),
    ):
        assert "".join(f"{label}:{value}".split()) in squeezed, label
    assert "Predicted probability of death within 12 months: 31.2 %" in text, (
        "a NUM has a decimal point in every language"
    )


@pytest.mark.parametrize("language", LANGUAGES)
def test_another_language_gives_other_uids(language: str) -> None:
    english, told = objects(made("en")), objects(made(language))
    for name, dataset in english.items():
        assert dataset.SOPInstanceUID != told[name].SOPInstanceUID, name


def test_descriptions_by_which_a_pacs_routes_are_the_same_in_every_language() -> None:
    described = [{name: one.SeriesDescription for name, one in objects(made(code)).items()} for code in CODES]
    assert all(one == described[0] for one in described)
