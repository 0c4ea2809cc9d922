"""A pattern of person names (PS3.4 C.2.2.2.4) as what SQL can look for: words of the search index, and a LIKE."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from reports.ups_match import person_name

LONGEST = 10  # characters of a word that are looked for
# What parts words in the index too: ASCII without letters, digits and wild cards.
_BETWEEN = r"\x00-)+-/:->@\[-`{-\x7f"
_WORD = re.compile(rf"(?:^|(?<=[{_BETWEEN}]))([^{_BETWEEN}*?]+)")
# Letters whose case the index (Unicode 6.1) folds as `str.casefold` does: Latin, Greek, Cyrillic, Hebrew, Arabic, Thai,
# kana, Han, Hangul.
_LETTERS = re.compile(
    "[0-9a-z\u00df-\u00f6\u00f8-\u024f\u03ac-\u03ce\u0430-\u0481\u048a-\u0527\u05d0-\u05ea\u0620-\u064a\u0e01-\u0e30\u1e00-\u1eff"
    "\u3041-\u3096\u30a1-\u30fa\u3400-\u4db5\u4e00-\u9fcb\uac00-\ud7a3]*"
)


@dataclass(frozen=True)
class NamePattern:
    """A pattern, not universal. `like` never says less of a name in ASCII, `words` (FTS5, '': nothing) of any name."""

    wanted: str
    like: str
    words: str


def name_pattern(wanted: str) -> NamePattern:
    r"""What SQL looks for.

    A word counts where it certainly begins in the name as in the pattern: at its beginning, or after a delimiter.
    U+0345 and U+1C80 to U+1C88, old forms of letters, are not looked for where the pattern has the usual ones.

    >>> name_pattern("MU*LER^*").words
    'patient_name : (("mu" *))'
    >>> name_pattern("*^N5").words, name_pattern("*o*").words
    ('patient_name : (("n5" *))', '')
    >>> name_pattern("GA_?*").like
    '%ga\\__%%'
    """
    plain = wanted.casefold().rstrip("^= ")
    found = " AND ".join(f"({spelled})" for word in _WORD.finditer(plain) if (spelled := _spelled(word)))
    like = re.sub(r"([%_\\])", r"\\\1", plain).replace("*", "%").replace("?", "_")
    return NamePattern(wanted, f"%{like}%", f"patient_name : ({found})" if found else "")


def is_named(wanted: str, name: str | None) -> bool:
    """Whether a stored name, of one value or several, is what a pattern asks for: the function of that name in SQL."""
    matches = person_name(wanted)
    return any(matches(one.strip(" \0")) for one in (name or "").split("\\"))


def _spelled(word: re.Match[str]) -> str:
    letters = _LETTERS.match(word[1])
    run = letters[0][:LONGEST] if letters else ""
    goes_on = len(run) < len(word[1]) or word.string[word.end() : word.end() + 1] in ("*", "?")
    return " OR ".join(f'"{spelling}" *' for spelling in dict.fromkeys(_spellings(run, goes_on))) if run else ""


def _spellings(rest: str, goes_on: bool) -> Iterator[str]:
    """What casefold makes one of, and the index does not: "strasse" and "straße"."""
    if not rest:
        yield ""
        return
    yield from (rest[0] + more for more in _spellings(rest[1:], goes_on))
    for letter, folded in _longer().items():
        if rest.startswith(folded):
            yield from (letter + more for more in _spellings(rest[len(folded) :], goes_on))
        elif goes_on and folded.startswith(rest):
            yield letter


@cache
def _longer() -> dict[str, str]:
    """Letters that casefold makes longer, the small ones: the index folds the capitals."""
    letters = (chr(point) for point in range(0xDF, 0xFB18))
    return {one: folded for one in letters if len(folded := one.casefold()) > 1 and one.lower() == one}
