"""Acknowledgements (HL7 v2.5.1 chapter 2.9 and 2.13): written for what comes in, read for what went out. Pure."""

import base64
import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from dicom_node.hl7_reader import Message, Refused, read
from reports.hl7_text import components, escape, segment

Code = Literal["AA", "AE", "AR"]
ACCEPT_CODES = {"AA": "CA", "AE": "CE", "AR": "CR"}  # enhanced mode: the receiver has it, whatever it does with it
_CONDITIONS = {  # HL7 table 0357
    "100": "segment sequence error",
    "101": "required field missing",
    "102": "data type error",
    "103": "table value not found",
    "200": "unsupported message type",
    "201": "unsupported event code",
    "202": "unsupported processing ID",
    "203": "unsupported version",
    "204": "unknown key identifier",
    "205": "duplicate key identifier",
    "206": "application record locked",
    "207": "application internal error",
}


@dataclass(frozen=True)
class Reply:
    """What a sender is told: taken (AA), try again (AE) or never (AR). The text goes out, so it holds no PHI."""

    code: Code
    text: str = ""
    error: int = 0  # HL7 table 0357


@dataclass(frozen=True)
class Acknowledgement:
    """What a receiver said of our message. `words`: its error condition in words of ours, never its own text."""

    code: str
    words: str = ""


class NotOurs(Exception):
    """What came back is no acknowledgement of this message; the text says why."""


def acknowledgement(message: Message, reply: Reply, application: str, facility: str, now: float) -> bytes | None:
    """The ACK of a message, in its character set and version; None where its sender wants none (MSH-15, MSH-16)."""
    msh = message.msh
    code = _code(msh.value(15), msh.value(16), reply.code)
    if code is None:
        return None
    control_id = msh.text(msh.field(10))
    own_id = base64.b32encode(hashlib.sha256(f"{control_id} {now}".encode()).digest()).decode()[:20]
    lines = [
        segment(
            "MSH",
            {
                3: escape(application),
                4: escape(facility),
                5: escape(msh.value(3)),
                6: escape(msh.value(4)),
                7: f"{datetime.fromtimestamp(now, UTC):%Y%m%d%H%M%S%z}",
                9: components("ACK", msh.value(9, 2), "ACK"),
                10: own_id,
                11: escape(msh.value(11)) or "P",
                12: escape(msh.value(12)) or "2.5.1",
                18: _character_set(message),
            },
        ),
        segment(
            "MSA",
            {1: code, 2: escape(control_id), 3: escape(reply.text)},
        ),
    ]
    if reply.error:
        condition = components(str(reply.error), _CONDITIONS[str(reply.error)].capitalize(), "HL70357")
        lines.append(segment("ERR", {3: condition, 4: "E", 8: escape(reply.text)}))
    return "".join(f"{line}\r" for line in lines).encode(message.encoding, "replace")


def _code(accept: str, application: str, code: Code) -> str | None:
    """MSA-1: of the accept acknowledgement where one is due, else of the application's; one at most (HL7 2.9.3)."""
    if not accept and not application:
        return code  # original mode
    if _is_due(accept, code):
        return ACCEPT_CODES[code]
    return code if _is_due(application, code) else None


def _is_due(condition: str, code: Code) -> bool:
    """HL7 table 0155; what is not in it is answered, for its sender may wait."""
    return {"": False, "NE": False, "ER": code != "AA", "SU": code == "AA"}.get(condition, True)


def _character_set(message: Message) -> str:
    """MSH-18 as it came: its repetitions are delimiters of ours too, and everything else in it is plain."""
    return "~".join(re.sub("[^A-Za-z0-9 ./-]", "", one) for one in message.character_set.split("~"))


def read_acknowledgement(data: bytes, control_id: str) -> Acknowledgement:
    """What came back for the message `control_id`. Raises NotOurs."""
    try:
        message = read(data)
    except Refused:
        raise NotOurs("what came back is no HL7 message") from None
    msa = next(message.named("MSA"), None)
    if msa is None:
        raise NotOurs("what came back is no acknowledgement: it has no MSA")
    if msa.value(2) != control_id:
        raise NotOurs("the acknowledgement is of another message (MSA-2)")
    codes = [error.value(3) or error.value(1, 4) for error in message.named("ERR")]
    known = [f"{code} {_CONDITIONS[code]}" for code in codes if code in _CONDITIONS]
    return Acknowledgement(msa.value(1).upper(), known[0] if known else "")
