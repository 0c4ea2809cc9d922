"""docs/hl7.md says what the code does: its examples are what is sent, and every observation stands in its table."""

import re
from pathlib import Path

import pytest

from config.settings import Hl7
from dicom_node.hl7_ack import Reply, acknowledgement
from dicom_node.hl7_messages import MERGES, RESULTS, UPDATES, content
from dicom_node.hl7_reader import read
from reports.hl7 import Replaced
from tests.hl7_inputs import ANNA, findings, message, not_scored, observations, scored
from tests.paths import ROOT

DOCUMENT = (ROOT / "docs" / "hl7.md").read_text(encoding="utf-8")
EXAMPLE = scored(scores=scored().scores[:1], groups=scored().groups[:1], sub_model=None, contributions=())


FIRST = message(EXAMPLE).split("|")[9]  # MSH-10 of the scored example, which the revision replaces


def example(name: str) -> str:
    (text,) = re.findall(rf"```hl7 {name}\n(.*?)```", DOCUMENT, re.DOTALL)
    return str(text)


def made(name: str) -> str:
    if name == "answer":
        merge = read(example("merge").replace("\n", "\r").encode())
        answer = acknowledgement(merge, Reply("AA", "1 studies changed"), "PROGNODE", "RADIOLOGY", 1_772_442_930.0)
        assert answer is not None
        return answer.decode()
    return {
        "scored": lambda: message(EXAMPLE),
        "not scored": lambda: message(not_scored()),
        "revision": lambda: message(not_scored(), revision=2, replaced=Replaced(FIRST, 1, (EXAMPLE,))),
    }[name]()


@pytest.mark.parametrize("name", ["scored", "not scored", "revision", "answer"])
def test_an_example_is_what_is_sent(name: str, tmp_path: Path) -> None:
    text = made(name)
    assert example(name) == text.replace("\r", "\n")
    if name != "answer":
        assert findings(text, tmp_path) == []


def test_the_example_of_a_merge_is_one() -> None:
    (merge,) = content(read(example("merge").replace("\n", "\r").encode())).merges
    assert [(prior.patient_id, surviving.patient_id) for prior, surviving in merge.pairs] == [("4711", "0815")]


def test_every_observation_that_is_sent_stands_in_the_table() -> None:
    replaced = Replaced(FIRST, 1, (scored(),))
    sent = {*observations(message()), *observations(message(not_scored(), revision=2, replaced=replaced))}
    table = set(re.findall(r"`([A-Z0-9_]+)`", DOCUMENT))
    named = {re.sub(r"^(OS|PFS)_\d+M_", "OS_12M_", code) for code in sent}
    assert {code for code in named if code not in table and code.replace("_EVENT", "_RANGE") not in table} == set()
    assert ANNA.patient_id in example("scored")


def test_every_message_that_is_taken_and_every_setting_is_named() -> None:
    for kind in (*UPDATES, *MERGES, *RESULTS):
        assert kind.removeprefix("ADT^").removeprefix("ORU^") in DOCUMENT
    named = set(re.findall(r"[a-z_]{4,}", DOCUMENT))
    assert {key for key in vars(Hl7()) if key not in named} <= {"host", "port", "listen"}
