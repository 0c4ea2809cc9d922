"""The message that the RIS gets: valid, complete, impossible to misread, and safe whatever a name holds."""

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import hl7
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis.contract import REASONS, RESEARCH_USE, SYNTHETIC_WARNING, BundleIdentity, Reason
from dicom_node.identity import Identity
from reports import words
from reports.hl7 import Replaced, control_id
from reports.hl7_text import escape
from tests.hl7_inputs import ANNA, context, findings, message, not_scored, observations, scored, segments

REPLACED = Replaced("OLDMESSAGE0000000001", 1, (scored(),))
NAMES = {
    "Latin": ("Müller-Lüdenscheidt^Jörg", "Müller-Lüdenscheidt^Jörg^^^^^L^A"),
    "Cyrillic": ("Иванов^Пётр", "Иванов^Пётр^^^^^L^A"),
    "Greek": ("Παπαδόπουλος^Γιώργος", "Παπαδόπουλος^Γιώργος^^^^^L^A"),
    "Japanese": (
        "Yamada^Tarou=山田^太郎=やまだ^たろう",
        "Yamada^Tarou^^^^^L^A~山田^太郎^^^^^L^I~やまだ^たろう^^^^^L^P",
    ),
    "Korean": ("Hong^Gildong=洪^吉洞=홍^길동", "Hong^Gildong^^^^^L^A~洪^吉洞^^^^^L^I~홍^길동^^^^^L^P"),
    "Chinese": ("Wang^XiaoDong=王^小东", "Wang^XiaoDong^^^^^L^A~王^小东^^^^^L^I"),
    "ideographic alone": ("=山田^太郎", "山田^太郎^^^^^L^I"),
}


def test_a_scored_result_is_valid_and_says_everything(tmp_path: Path) -> None:
    text = message()
    assert findings(text, tmp_path) == []
    said = observations(text)
    assert said["OS_12M_EVENT"][2:7] == [
        "NM",
        said["OS_12M_EVENT"][3],
        said["OS_12M_EVENT"][4],
        "31.2",
        "%^Percent^UCUM",
    ]
    assert "within 12 months" in said["OS_12M_EVENT"][3]
    assert said["OS_12M_RANGE"][5] == "22 to 41 % (90 % bootstrap interval)"
    assert said["OS_RISK_GROUP"][5] == "15508007^High risk^SCT"
    assert said["PFS_RISK_GROUP"][5] == "64957009^Uncertain risk^SCT"
    assert said["113014"][5] == "1.2.840.1"
    assert said["BUNDLE"][5] == f"demo 0.1.0, SHA-256 {scored().bundle.digest}"
    assert "PD-L1 was not given" in said["QUALITY"][5]
    assert {fields[11] for code, fields in said.items() if code not in ("113014", "CONTOUR")} == {"P"}
    (request,) = segments(text, "OBR")
    assert (request[2], request[3], request[18], request[25]) == ("ACC0001", "ACC0001", "ACC0001", "P")


def test_the_use_is_stated_as_a_note_and_as_an_observation(tmp_path: Path) -> None:
    text = message()
    notes = [fields[3] for fields in segments(text, "NTE")]
    assert notes[:2] == [RESEARCH_USE, SYNTHETIC_WARNING], "directly below OBR"
    assert text.index("NTE|1||Research use") < text.index("OBX|1|")
    said = observations(text)
    assert (said["USE"][5], said["WARNING"][5]) == (RESEARCH_USE, SYNTHETIC_WARNING)
    real = scored(bundle=BundleIdentity(name="site", version="1", digest="d" * 64, synthetic=False))
    assert "SYNTHETIC" not in message(real)


@pytest.mark.parametrize("reason", list(Reason))
def test_each_reason_for_no_score_comes_with_its_sentence_and_its_remedy(reason: Reason, tmp_path: Path) -> None:
    text = message(not_scored(reason))
    assert findings(text, tmp_path) == []
    said = observations(text)
    assert said["OUTCOME"][5].startswith("NOT_SCORED^")
    assert said["REASON"][5].endswith("^99PROGNODE")
    assert _read(said["REASON_TEXT"][5]) == REASONS[reason].sentence
    assert REASONS[reason].remedy in [_read(fields[3]) for fields in segments(text, "NTE")]
    assert not any(code.endswith("_EVENT") for code in said)


def test_a_revision_corrects_what_was_sent_before_and_names_it(tmp_path: Path) -> None:
    text = message(revision=2, replaced=REPLACED)
    assert findings(text, tmp_path) == []
    said = observations(text)
    assert said["OS_12M_EVENT"][11] == "P", "C would replace a final result, and none of ours is"
    assert said["113014"][11] == "O"
    assert said["REPLACES"][5] == REPLACED.control_id
    assert "Revision 2, replaces revision 1." in [fields[3] for fields in segments(text, "NTE")]
    assert segments(text, "OBR")[0][25] == "P"


def test_numbers_that_do_not_hold_any_more_are_taken_back(tmp_path: Path) -> None:
    text = message(not_scored(), revision=2, replaced=REPLACED)
    assert findings(text, tmp_path) == []
    said = observations(text)
    for code in ("OS_12M_EVENT", "OS_12M_RANGE", "PFS_36M_EVENT", "OS_RISK_GROUP"):
        assert (said[code][5], said[code][11]) == ("", "X"), code
    assert said["REASON"][11] == "P"
    back = observations(message(scored(), revision=3, replaced=Replaced("B", 2, (not_scored(),))))
    assert (back["REASON"][11], back["OS_12M_EVENT"][11]) == ("X", "P")


def test_what_an_unacknowledged_message_should_have_taken_back_is_taken_back_again() -> None:
    replaced = Replaced("B", 2, (not_scored(), scored()))
    text = message(not_scored(), revision=3, replaced=replaced)
    said = observations(text)
    assert (said["OS_12M_EVENT"][5], said["OS_12M_EVENT"][11]) == ("", "X")
    assert said["REASON"][11] == "P"
    assert len(segments(text, "OBX")) == len(said), "each name once"


def test_the_sub_id_is_that_of_the_contour_so_that_two_results_of_one_study_stay_apart() -> None:
    first = {fields[4] for fields in segments(message(), "OBX")}
    revised = {fields[4] for fields in segments(message(not_scored(), revision=2, replaced=REPLACED), "OBX")}
    other = {fields[4] for fields in segments(message(contour="1.2.840.3"), "OBX")}
    assert first == revised
    assert first.isdisjoint(other)
    assert all(len(one) == 1 for one in (first, other))


@pytest.mark.parametrize("script", NAMES)
def test_a_name_in_any_script_is_whole_and_says_which_script_it_is(script: str, tmp_path: Path) -> None:
    name, expected = NAMES[script]
    text = message(person=replace(ANNA, patient_name=name))
    assert segments(text, "PID")[0][5] == expected
    assert findings(text, tmp_path) == []
    assert segments(text, "MSH")[0][17] == "UNICODE UTF-8"


def test_the_patient_is_named_as_dicom_has_it(tmp_path: Path) -> None:
    pid = segments(message(), "PID")[0]
    assert pid[3] == "4711^^^HOSPITAL A^MR"
    assert pid[5] == "Müller^Jörg^Karl^jun.^Dr.^^L^A", "DICOM has the prefix before the suffix, HL7 after it"
    assert (pid[7], pid[8]) == ("19500101", "M")
    oid = message(person=replace(ANNA, issuer_of_patient_id="1.2.276.0.76"))
    assert segments(oid, "PID")[0][3] == "4711^^^&1.2.276.0.76&ISO^MR"
    assert findings(oid, tmp_path) == []


def test_what_is_not_known_is_left_out(tmp_path: Path) -> None:
    bare = Identity(patient_id="4711", patient_birth_date="1950", patient_sex="U", study_date="20241399")
    text = message(person=bare)
    assert findings(text, tmp_path) == []
    pid, request = segments(text, "PID")[0], segments(text, "OBR")[0]
    assert pid == ["PID", "1", "", "4711^^^^MR", "", "^^^^^^U"]
    assert request[2:4] == ["", "k" * 16 + "^PROGNODE"], "a filler number of our own where there is no accession number"
    assert request[7] == request[22]


def test_without_a_patient_id_there_is_no_message() -> None:
    with pytest.raises(ValueError, match="no Patient ID"):
        message(person=replace(ANNA, patient_id=""))


def test_times_have_their_zone_and_follow_summer_time() -> None:
    text = message()
    assert segments(text, "MSH")[0][6] == "20260302101530+0100"
    assert segments(text, "OBR")[0][7] == "20240312093015+0100"
    summer = message(person=replace(ANNA, study_date="20240712", study_time="0930"))
    assert segments(summer, "OBR")[0][7] == "20240712093000+0200"
    day = message(person=replace(ANNA, study_time=""))
    assert segments(day, "OBR")[0][7] == "20240312"
    east = message(created=datetime(2026, 3, 2, 9, 15, 30, tzinfo=UTC), zone=timezone(timedelta(hours=5, minutes=30)))
    assert segments(east, "MSH")[0][6] == "20260302144530+0530"


def test_the_control_id_is_the_same_as_long_as_the_message_is() -> None:
    first = control_id(ANNA, context())
    assert re.fullmatch(r"[A-Z2-7]{20}", first)
    assert first == control_id(ANNA, context()) == segments(message(), "MSH")[0][9]
    others = {
        control_id(ANNA, context(key="j" * 64)),
        control_id(ANNA, context(destination="OTHER")),
        control_id(ANNA, context(replaced=REPLACED)),
        control_id(replace(ANNA, patient_id="4712"), context()),
        control_id(replace(ANNA, patient_name="Maier"), context()),
    }
    assert len(others | {first}) == 6


def test_the_language_is_that_of_the_site_and_the_codes_stay() -> None:
    german, english = observations(message(language="de")), observations(message())
    assert set(german) == set(english)
    assert _read(german["OS_12M_RANGE"][5]) == words.interval_sentence(scored().scores[0], "de")
    assert german["OS_12M_EVENT"][3] == english["OS_12M_EVENT"][3]


HOSTILE = "Eve\rMSH|^~\\&|EVIL\nOBX|1|NM|X||0\x0b\x1c\r~&^|\\F\\\x85\u2028\u2029\x00\x7f"


def test_nothing_of_a_hostile_name_starts_a_field_a_segment_or_a_block(tmp_path: Path) -> None:
    person = replace(
        ANNA, patient_name=HOSTILE, patient_id=HOSTILE, issuer_of_patient_id=HOSTILE, accession_number=HOSTILE
    )
    honest, text = message(), message(person=person, study_instance_uid=HOSTILE, contour=HOSTILE)
    assert [line[:4] for line in text.split("\r")] == [line[:4] for line in honest.split("\r")]
    assert not set(text) & set("\n\x0b\x1c\x00\x7f\x85\u2028\u2029")
    assert [line.count("|") for line in text.split("\r")[:2]] == [line.count("|") for line in honest.split("\r")[:2]]
    assert findings(message(person=replace(person, issuer_of_patient_id="A|B\rC")), tmp_path) == []


@given(st.text(max_size=80))
def test_whatever_a_text_holds_it_is_one_component_and_comes_back(text: str) -> None:
    encoded = escape(text)
    assert not set(encoded) & set("|^~&\r\n\x0b\x1c")
    assert _read(encoded) == text


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=64))
def test_any_name_leaves_a_message_of_the_same_shape(name: str) -> None:
    text = message(person=replace(ANNA, patient_name=name, accession_number=name))
    assert [line[:3] for line in text.split("\r")] == [line[:3] for line in message().split("\r")]
    parsed = hl7.parse(text)
    assert len(parsed.segments("OBX")) == len(segments(message(), "OBX"))


def _read(encoded: str) -> str:
    """The escapes taken out again, as a receiver would."""
    plain = {"F": "|", "S": "^", "T": "&", "R": "~", "E": "\\"}

    def one(found: re.Match[str]) -> str:
        word = found[1]
        return plain[word] if word in plain else bytes.fromhex(word[1:]).decode()

    return re.sub(r"\\([FSTRE]|X[0-9A-F]+)\\", one, encoded)
