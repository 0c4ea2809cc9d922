"""What the PACS says of a study's patient, against what is known here: which of the two counts for what. Pure. PHI.

The PACS decides what stands in the objects that it has to file. Who the patient is, for the page and for messages, is
decided by whatever is newest: an HL7 merge or update that the PACS has not heard of yet is not undone by its answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from dicom_node.identity import FILED_BY, Identity, normal_name, says_nothing_new

UNREADABLE = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True)
class Reconciled:
    """`filed`: what the objects must carry. `current`: who the patient is now."""

    filed: Identity
    current: Identity


def reconciled(known: Identity, answer: Identity, replaced_by_hl7: Sequence[Identity]) -> Reconciled:
    """Put the answer of a PACS (C-FIND at STUDY level) over what is known.

    What it leaves empty or garbles is no answer. A value that an HL7 message has replaced here is old news.

    >>> old, new = Identity("A", patient_name="Doe"), Identity("B", patient_name="Doe")
    >>> both = reconciled(new, old, [old])
    >>> both.filed.patient_id, both.current.patient_id
    ('A', 'B')
    """
    said = {name: value for name in FILED_BY if _usable(name, value := getattr(answer, name), getattr(known, name))}
    filed = replace(known, **said)
    old = {name: {getattr(before, name) for before in replaced_by_hl7} for name in said}
    news = {name: value for name, value in said.items() if value not in old[name]}
    return Reconciled(filed, replace(known, **news))


def lost_characters(value: str, known: str) -> bool:
    """Whether a value is what is left of the known one in a character set that lacks some of its characters.

    Some PACS answer in one fixed character set and leave out, or replace by "?", what it does not have.

    >>> [lost_characters(value, "Dvořák^Jiří") for value in ("Dvoák^Jií", "Dvo?ák^Ji?í", "^", "Dvorak^Jiri")]
    [True, True, False, False]
    >>> lost_characters("^", "Иванов^Пётр"), lost_characters("Müller", "Möller")
    (True, False)
    """
    return any(_left_over(value, known, mark) for mark in ("", "?"))


def _left_over(value: str, known: str, mark: str) -> bool:
    at = 0
    for character in known:
        if value[at : at + 1] == character:
            at += 1
        elif character.isascii() or value[at : at + len(mark)] != mark:
            return False
        else:
            at += len(mark)
    return at == len(value)


def _fits(name: str, value: str) -> bool:
    """Whether a value keeps to its VR (PS3.5 table 6.2-1): PN, SH, else LO. One that is cut would mean somebody else.

    >>> _fits("patient_id", "4" * 64), _fits("patient_id", "4" * 65), _fits("patient_id", "A" + chr(92) + "B")
    (True, False, False)
    """
    groups = value.split("=") if name == "patient_name" else [value]
    longest = 16 if name == "accession_number" else 64
    return len(groups) <= 3 and all(len(group) <= longest for group in groups) and "\\" not in value


def _usable(name: str, value: str, known: str) -> bool:
    if not value or UNREADABLE in value or lost_characters(value, known) or not _fits(name, value):
        return False
    if name == "patient_name":
        return not says_nothing_new(value, known) and normal_name(value) != ""
    if name == "patient_sex":
        return value in ("M", "F", "O")
    if name == "patient_birth_date":
        return len(value) == 8 and value.isascii() and value.isdigit()
    return True
