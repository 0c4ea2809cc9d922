r"""The encoding rules of HL7 v2 (v2.5.1 chapter 2.5 to 2.7): delimiters, escapes, segments. Leaf of the reports.

>>> escape("5|7\r" + chr(28))
'5\\F\\7\\X0D\\\\X1C\\'
"""

from collections.abc import Mapping
from typing import Final

FIELD: Final = "|"
COMPONENT: Final = "^"
REPETITION: Final = "~"
SUBCOMPONENT: Final = "&"
ESCAPE: Final = "\\"
_ESCAPED: Final = {ESCAPE: "E", FIELD: "F", COMPONENT: "S", REPETITION: "R", SUBCOMPONENT: "T"}
_LINE_ENDS: Final = "\x85\u2028\u2029"  # what some receivers split lines at


def escape(text: str) -> str:
    """A value in which nothing is a delimiter, the end of a segment or of an MLLP block any more."""
    return "".join(_escaped(character) for character in text)


def _escaped(character: str) -> str:
    if character in _ESCAPED:
        return f"{ESCAPE}{_ESCAPED[character]}{ESCAPE}"
    if character < " " or character == "\x7f" or character in _LINE_ENDS:
        return f"{ESCAPE}X{character.encode().hex().upper()}{ESCAPE}"
    return character


def components(*parts: str) -> str:
    """Components of a field, each escaped; empty ones at the end are left out.

    >>> components("a", "", "b^c", "")
    'a^^b\\\\S\\\\c'
    """
    return COMPONENT.join(escape(part) for part in parts).rstrip(COMPONENT)


def segment(name: str, fields: Mapping[int, str]) -> str:
    """A segment of encoded fields by their numbers, without its end.

    >>> segment("PID", {1: "1", 3: "4711"}), segment("MSH", {3: "PROGNODE"})
    ('PID|1||4711', 'MSH|^~\\\\&|PROGNODE')
    """
    first = 1
    if name == "MSH":  # MSH-1 is the field separator itself
        fields, first = {**fields, 2: f"{COMPONENT}{REPETITION}{ESCAPE}{SUBCOMPONENT}"}, 2
    last = max((number for number, value in fields.items() if value), default=0)
    return FIELD.join([name, *(fields.get(number, "") for number in range(first, last + 1))])
