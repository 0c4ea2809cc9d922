"""The languages of a report: message catalogues (gettext .po) and the number formats and plurals of each (CLDR).

English is written in the code and needs no catalogue; `scripts/catalogues` collects it into the others. Codes, units
and names of features are the same in every language.
"""

import gettext
import re
from collections.abc import Callable, Sequence
from functools import cache
from importlib import resources
from typing import Final

from babel import Locale
from babel.messages.pofile import read_po

ENGLISH: Final = "en"
CODES: Final = (ENGLISH, "de", "fr", "es", "ja", "ko")
TOLD: Final = "told"  # message context of sentences that the job and the planner wrote, with {0}, {1} ... in them
_HOLE = re.compile(r"\{\d+\}")
_FRACTION = re.compile(r"(?<![\d.])\d+\.\d+(?![\d.])")


class Speaker:
    """One language: `say` and `count` take the English text, `figure` a number as Python writes it."""

    def __init__(self, code: str) -> None:
        self.code = code
        self.locale = Locale.parse(code)
        self.reviewed = True
        symbols = self.locale.number_symbols["latn"]
        self._figures = str.maketrans({",": str(symbols["group"]), ".": str(symbols["decimal"])})
        self._messages: dict[str, str | tuple[str, ...]] = {}
        self._told: list[tuple[re.Pattern[str], str]] = []
        self._form: Callable[[int], int] = lambda number: int(number != 1)
        if code != ENGLISH:
            self._read()

    @property
    def name(self) -> str:
        """English name, as CID 5000 has it.

        >>> speaker("de").name
        'German'
        """
        return str(self.locale.get_display_name(ENGLISH))

    def say(self, message: str, **values: object) -> str:
        """A message in this language, its {placeholders} filled.

        >>> speaker("en").say("Revision {number}", number=2)
        'Revision 2'
        """
        said = self._messages.get(message, message)
        return (said if isinstance(said, str) else said[0]).format(**values) if values else str(said)

    def count(self, one: str, several: str, number: int, **values: object) -> str:
        """`say`, in the plural form of `number`, which fills the placeholder {number} as a figure."""
        forms = self._messages.get(one, (one, several))
        return forms[self._form(number)].format(number=self.figure(f"{number:,}"), **values)

    def figure(self, text: str) -> str:
        """A number with the decimal and group marks of the language; ',' groups in the given text.

        >>> speaker("en").figure("125,256.5"), speaker("de").figure("125,256.5")
        ('125,256.5', '125.256,5')
        """
        return text.translate(self._figures)

    def listed(self, parts: Sequence[str]) -> str:
        """The parts as people list them.

        >>> speaker("en").listed(["clinical", "radiomic", "deep"]), speaker("de").listed(["a", "b"])
        ('clinical, radiomic and deep', 'a und b')
        """
        if len(parts) < 2:
            return "".join(parts)
        return self.say("{first} and {last}", first=", ".join(parts[:-1]), last=parts[-1])

    def retell(self, text: str) -> str:
        """A sentence that the job or the planner wrote in English, told in this language.

        What it holds (figures, labels, further sentences) is told in the same way. A sentence that no catalogue
        knows is given as it is: it is better read in English than not at all.
        """
        if self.code == ENGLISH:
            return text
        known = self._messages.get(text)
        if isinstance(known, str):
            return known
        for pattern, told in self._told:
            found = pattern.fullmatch(text)
            if found:
                return told.format(*(self.retell(part) for part in found.groups()))
        for between in ("; ", ", "):
            if between in text:
                return between.join(self.retell(part) for part in text.split(between))
        return _FRACTION.sub(lambda number: self.figure(number[0]), text)

    def _read(self) -> None:
        file = resources.files("reports") / "catalogues" / f"{self.code}.po"
        with file.open("rb") as stream:
            catalogue = read_po(stream, locale=self.code)
        self.reviewed = "machine" not in catalogue.last_translator
        self._form = gettext.c2py(catalogue.plural_expr)
        for message in catalogue:
            if not message.id or not all(
                [message.string] if isinstance(message.string, str) else message.string or [""]
            ):
                continue  # not translated (yet): said in English, never left out
            key = message.id if isinstance(message.id, str) else message.id[0]
            self._messages[key] = message.string if isinstance(message.string, str) else tuple(message.string or ())
            if message.context == TOLD and _HOLE.search(key):
                self._told.append((_pattern(key), str(message.string)))
        self._told.sort(key=lambda item: -len(item[0].pattern))  # the most definite first


def mark(message: str) -> str:
    """The message itself, marked for the catalogues where it stands in a table."""
    return message


@cache
def speaker(language: str) -> Speaker:
    """Who speaks a language, by its code (RFC 5646), one of CODES."""
    if language not in CODES:
        raise ValueError(f"language {language!r}: use one of {', '.join(CODES)}")
    return Speaker(language)


def _pattern(template: str) -> re.Pattern[str]:
    """What a sentence made from this template looks like."""
    literal = [re.escape(part) for part in _HOLE.split(template)]
    return re.compile("(.+?)".join(literal), re.DOTALL)
