"""The message catalogues are complete: every text of the code, every placeholder, every character has a glyph."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Literal

import pytest
from babel.messages.catalog import Catalog, Message
from babel.messages.pofile import read_po

from analysis.contract import Reason
from config.settings import Planning, Report, Settings
from dicom_node import check, gates
from dicom_node.workitem import ConfigError
from reports import fonts, words
from reports.language import CODES, TOLD, speaker
from tests.facts import facts
from tests.paths import ROOT
from tests.road import road
from tests.synthetic import DEFECTS, ct_series

LANGUAGES = tuple(code for code in CODES if code != "en")
PLACEHOLDER = re.compile(r"\{\w+\}")
# What is written alike in another language: names of the field, abbreviations, patterns of placeholders.
ALIKE = {
    "ROI", "AUC {auc}", "Revision {number}", "Axial", "Coronal", "Sagittal", "Albumin", "segment", "position",
    "orientation", "acceptable", "contour",
}  # fmt: skip


def catalogue(language: str) -> Catalog:
    with (ROOT / "reports" / "catalogues" / f"{language}.po").open("rb") as stream:
        return read_po(stream, locale=language)


def messages(language: str) -> list[Message]:
    return [message for message in catalogue(language) if message.id]


def pairs(message: Message) -> list[tuple[str, str]]:
    """English and translation; of a plural, each form beside the English plural."""
    if isinstance(message.id, str):
        return [(message.id, str(message.string))]
    return [(message.id[1], str(form)) for form in message.string]


def collector() -> ModuleType:
    spec = importlib.util.spec_from_file_location("catalogues", ROOT / "scripts" / "catalogues.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_catalogues_hold_what_the_code_says_and_nothing_else() -> None:
    """What is new: run scripts/catalogues.py, then translate the empty messages."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "catalogues.py"), "--check"],
        capture_output=True, text=True, check=False, timeout=120, cwd=ROOT, env={"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_text_that_the_code_does_not_say_yet_makes_them_stale(tmp_path: Path) -> None:
    module = collector()
    source = tmp_path / "reports"
    source.mkdir()
    (source / "new.py").write_text(
        "voice.say(\"A sentence of {number} words\", number=5)\nf\"{voice.count('one', 'many', 2)}\"\n"
    )
    found = list(module.said(source / "new.py"))
    assert found == [("A sentence of {number} words",), ("one", "many")]


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_message_is_empty_and_each_has_the_placeholders_of_the_english(language: str) -> None:
    for message in messages(language):
        for english, translation in pairs(message):
            assert translation.strip(), english
            wanted, found = set(PLACEHOLDER.findall(english)), set(PLACEHOLDER.findall(translation))
            # "in one month" needs no figure
            assert wanted - {"{number}"} <= found <= wanted if isinstance(message.id, tuple) else wanted == found, (
                english
            )
            assert translation[:1].isspace() == english[:1].isspace() or language == "ja", english


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_english_is_left_over(language: str) -> None:
    for message in messages(language):
        for english, translation in pairs(message):
            bare = PLACEHOLDER.sub("", english)
            if sum(map(str.isalpha, bare)) > 3 and english not in ALIKE:
                assert translation != english
    own = [re.findall(r"[A-Za-z]{4,}", PLACEHOLDER.sub("", t)) for m in messages(language) for _, t in pairs(m)]
    if language in ("ja", "ko"):  # what is left in Latin letters is a name, a keyword or a command
        terms = {
            "Prognode", "RTSTRUCT", "DICOM", "PACS", "ECOG", "FHIR", "prognode", "clinical", "import", "retry", "study",
            "plan", "name", "patterns", "several", "rois", "largest", "union", "Explicit", "Implicit", "Little",
            "Endian", "Structure",
        }  # fmt: skip
        assert {word for found in own for word in found} <= terms


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_character_of_a_language_has_a_glyph(language: str) -> None:
    for bold in (False, True):
        held = [fonts.characters(face.path) for face in fonts.faces(language, bold)[:2]]
        for message in messages(language):
            for _, translation in pairs(message):
                assert not [c for c in translation if not any(ord(c) in one for one in held)], translation


@pytest.mark.parametrize("language", LANGUAGES)
def test_each_sentence_of_the_job_is_recognised_whatever_it_holds(language: str) -> None:
    """No template takes the sentence of another."""
    voice = speaker(language)
    for message in messages(language):
        if message.context == TOLD:
            english, translation = str(message.id), str(message.string)
            values = [str(70 + k) for k in range(10)]
            assert voice.retell(english.format(*values)) == translation.format(*values), english


@pytest.mark.parametrize("language", LANGUAGES)
def test_figures_and_labels_inside_a_sentence_are_told_too(language: str) -> None:
    voice = speaker(language)
    told = voice.retell("Training median or commonest value used for: Liver metastases, Age, Krebs-Marker 7")
    for label in ("Liver metastases", "Age"):
        assert voice.say(label) in told
        assert voice.say(label) != label
    assert "Krebs-Marker 7" in told, "a label of the bundle that no catalogue knows stays as it is"
    decimals = {"de": "0,74", "fr": "0,74", "es": "0,74", "ja": "0.74", "ko": "0.74"}
    assert decimals[language] in voice.retell("The contour holds 0.74 mL: texture is uncertain below 1 mL")


@pytest.mark.parametrize("defect", sorted(DEFECTS))
def test_the_planner_s_own_details_are_told(defect: str) -> None:
    series = facts(DEFECTS[defect](ct_series(16, seed=5)))
    found = gates.series_defect(series) or gates.stack_defect(series, Planning())
    assert found is not None
    for language in LANGUAGES:
        told = speaker(language).retell(found.detail)
        assert told != found.detail
        assert not re.search(r"\b(of|the|images|slices|between|lie)\b", told) or language == "fr", told


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_reason_has_its_sentence_and_remedy(language: str) -> None:
    for reason in Reason:
        english, told = words.reason(reason), words.reason(reason, language)
        assert told.sentence != english.sentence
        assert told.remedy != english.remedy


def test_what_nobody_has_reviewed_says_so() -> None:
    assert speaker("en").reviewed
    for language in LANGUAGES:
        assert speaker(language).reviewed == ("machine" not in catalogue(language).last_translator)
        assert "not reviewed by a clinician" in catalogue(language).header_comment or speaker(language).reviewed


def test_an_unknown_language_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'xx'"):
        speaker("xx")


def test_a_language_whose_font_is_not_installed_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fonts, "_noto", lambda name, weight: None)
    fonts.check("de")
    with pytest.raises(fonts.FontMissing, match=r'language "ko" needs the font Noto Sans KR.*prognode\[cjk\]'):
        fonts.check("ko")


def test_a_character_that_no_font_holds_is_marked_and_never_an_empty_box() -> None:
    choice = fonts.faces("en", bold=False)
    assert fonts.runs("a\U0001f680b", choice) == [(choice[0], "a\ufffdb")]
    mixed = fonts.runs("Müller 山田 홍", choice)
    assert "".join(piece for _, piece in mixed) == "Müller 山田 홍"
    assert len({face for face, _ in mixed}) == 3


def test_how_a_text_is_cut_does_not_go_by_what_was_drawn_before() -> None:
    """Else a report's bytes would depend on the reports that its process has written."""
    for piece in ("w", "x"):
        fonts.runs(piece, fonts.faces("en", bold=False))  # an equal choice, and not the same
    choice = fonts.faces("en", bold=False)
    assert [piece for _, piece in fonts.runs("wxyz", choice)] == ["wxyz"]


def test_a_node_that_cannot_draw_its_language_does_not_start(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fonts, "_noto", lambda name, weight: None)
    with pytest.raises(ConfigError, match="needs the font Noto Sans JP"):
        road(tmp_path, report=Report(language="ja"))


def test_prognode_check_says_what_is_missing_and_what_nobody_has_reviewed(monkeypatch: pytest.MonkeyPatch) -> None:
    def finding(language: Literal["en", "de", "ko"]) -> check.Finding:
        return check._language(Settings(report=Report(language=language)))

    assert (finding("en").well, finding("en").text) == (True, "English")
    assert finding("de").well
    assert "translated by machine: no clinician who speaks it has reviewed it" in finding("de").text
    monkeypatch.setattr(fonts, "_noto", lambda name, weight: None)
    assert not finding("ko").well
    assert "pip install" in finding("ko").remedy
