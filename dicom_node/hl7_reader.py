"""Reads HL7 v2 messages (HL7 v2.5.1 chapter 2.5 to 2.7): character set, delimiters, segments, fields, escapes.

What comes over the network is hostile: texts of Refused never quote it. Leaf of the node: standard library only.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

MAXIMUM_TEXT = 65_536  # characters of a field; longer ones hold documents, which nothing here reads
_8859 = re.compile(r"(?:ISO[ _-]?)?8859[-/](\d{1,2})")
# HL7 table 0211. ASCII is read as UTF-8, which it is a part of: many senders do not say what they send.
_CHARACTER_SETS = {
    "": "utf-8",
    "ASCII": "utf-8",
    "ISO IR6": "utf-8",
    "UNICODE": "utf-8",
    "UNICODE UTF-8": "utf-8",
    "UTF-8": "utf-8",
    "ISO IR14": "shift_jis",
    "GB 18030-2000": "gb18030",
    "GB18030": "gb18030",
    "KS X 1001": "euc_kr",
    "BIG-5": "big5",
}
_BY_ESCAPE = {"ISO IR87", "ISO IR159"}  # JIS X 0208 and 0212, switched to and from by escape sequences
_ESCAPES = {"F": 0, "S": 1, "R": 2, "E": 3, "T": 4}


class Refused(Exception):
    """A message cannot be used. `code` is of HL7 table 0357; the text says why without quoting anything."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


REQUIRED_FIELD, DATA_TYPE, SEGMENT_SEQUENCE = 101, 102, 100
UNSUPPORTED_TYPE, UNSUPPORTED_EVENT, UNSUPPORTED_PROCESSING_ID = 200, 201, 202
UNKNOWN_KEY, INTERNAL_ERROR = 204, 207


@dataclass(frozen=True)
class Segment:
    """One segment; fields are encoded text."""

    name: str
    _fields: tuple[str, ...]
    _delimiters: str  # field, component, repetition, escape, subcomponent
    _encoding: str

    def field(self, number: int) -> str:
        """A field as it is encoded; '' where absent."""
        return self._fields[number] if number < len(self._fields) else ""

    def repetitions(self, number: int) -> list[str]:
        """The repetitions of a field that say anything, encoded."""
        return [one for one in self.field(number).split(self._delimiters[2]) if one]

    def components(self, encoded: str) -> list[str]:
        """The components of a repetition, encoded."""
        return encoded.split(self._delimiters[1])

    def component(self, encoded: str, number: int, sub: int = 1) -> str:
        """A component (from 1) of a repetition, or a subcomponent of it, as text; '' where absent."""
        parts = self.components(encoded)
        subs = parts[number - 1].split(self._delimiters[4]) if number <= len(parts) else []
        return self.text(subs[sub - 1]) if sub <= len(subs) else ""

    def value(self, number: int, component: int = 1, sub: int = 1) -> str:
        """A component of a field's first repetition, as text."""
        first = self.field(number).partition(self._delimiters[2])[0]
        return self.component(first, component, sub)

    def text(self, encoded: str) -> str:
        """What an encoded text says: escapes taken out, control characters replaced, blanks at the ends cut."""
        escape = re.escape(self._delimiters[3])
        pattern = f"(?:{escape}X[0-9A-Fa-f]*{escape})+|{escape}[^{escape}]*{escape}"
        plain = re.sub(pattern, self._unescaped, encoded[:MAXIMUM_TEXT])
        return "".join(c if c.isprintable() else " " for c in plain).strip()

    def _unescaped(self, found: re.Match[str]) -> str:
        word = found[0][1:-1]
        if word in _ESCAPES:
            return self._delimiters[_ESCAPES[word]]
        if word.startswith("X"):  # several in a row: the bytes of one character
            digits = re.sub("[^0-9A-Fa-f]", "", found[0].replace("X", ""))
            return bytes.fromhex(digits[: len(digits) // 2 * 2]).decode(self._encoding, "replace")
        if word.startswith(("C", "M")):  # another character set in mid-text: not read
            return "\N{REPLACEMENT CHARACTER}"
        return " " if word.startswith(".") else ""  # line breaks and highlighting


@dataclass(frozen=True)
class Message:
    """A message that begins with MSH."""

    segments: tuple[Segment, ...]
    character_set: str  # MSH-18 as it was sent: the acknowledgement says the same
    encoding: str  # the codec that it means

    @property
    def msh(self) -> Segment:
        return self.segments[0]

    @property
    def kind(self) -> str:
        """Message code and trigger event: "ADT^A08"."""
        return f"{self.msh.value(9, 1)}^{self.msh.value(9, 2)}"

    def named(self, *names: str) -> Iterator[Segment]:
        """The segments of these names, in their order."""
        return (segment for segment in self.segments if segment.name in names)


def read(data: bytes) -> Message:
    """Read a message.

    Raises
    ------
    Refused
        It is none, its delimiters are odd, or it is not in the character set that it says.
    """
    delimiters = _delimiters(data)
    header = re.split(rb"[\r\n]", data, maxsplit=1)[0].decode("latin-1").split(delimiters[0])
    character_set = header[17].strip() if len(header) > 17 else ""
    encoding = _encoding(character_set.split(delimiters[2]))
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        declared = "the character set of MSH-18" if character_set else "UTF-8; name its character set in MSH-18"
        raise Refused(DATA_TYPE, f"the message is not in {declared}") from None
    # A line feed within a segment is a part of its text, unless the sender ends segments with it.
    lines = (line.strip("\n") for line in text.split("\r" if "\r" in text else "\n"))
    segments = tuple(_segment(line, delimiters, encoding) for line in lines if line.strip())
    if sum(segment.name == "MSH" for segment in segments) != 1:
        raise Refused(SEGMENT_SEQUENCE, "there are several messages in one block; send each in its own")
    return Message(segments, character_set, encoding)


def header_of(data: bytes) -> Message:
    """The MSH segment alone, whatever character set it says: enough to refuse the rest. Raises Refused."""
    delimiters = _delimiters(data)
    line = re.split(rb"[\r\n]", data[:MAXIMUM_TEXT], maxsplit=1)[0].decode("ascii", "replace")
    return Message((_segment(line, delimiters, "ascii"),), "", "ascii")


def _segment(line: str, delimiters: str, encoding: str) -> Segment:
    name, *fields = line.split(delimiters[0])
    if name == "MSH":
        fields.insert(0, delimiters[0])
    return Segment(name, (name, *fields), delimiters, encoding)


def _delimiters(data: bytes) -> str:
    """MSH-1 and MSH-2 as "|^~\\&"."""
    start = data[:9].decode("latin-1")
    end = start.find(start[3:4], 4)
    given = start[3 : end if end > 0 else 8]
    usual = len(given) >= 4 and all(33 <= ord(one) < 127 and not one.isalnum() for one in given)
    if not start.startswith("MSH") or not usual or len(set(given)) < len(given):
        raise Refused(SEGMENT_SEQUENCE, "the message does not begin with MSH and its delimiters")
    return given if len(given) >= 5 else f"{given}&"


def _encoding(names: Sequence[str]) -> str:
    """The codec of MSH-18, whose repetitions are the sets that escape sequences switch between."""
    wanted = [name.strip().upper() for name in names]
    if _BY_ESCAPE & set(wanted):
        return "iso2022_jp_ext"
    numbered = _8859.fullmatch(wanted[0])
    if numbered and 1 <= int(numbered[1]) <= 16 and numbered[1] != "12":
        return f"iso8859-{numbered[1]}"
    if wanted[0] not in _CHARACTER_SETS:
        raise Refused(DATA_TYPE, "MSH-18 names a character set that is not read here; send UNICODE UTF-8")
    return _CHARACTER_SETS[wanted[0]]
