"""Which font draws which character: DejaVu for European languages, Noto Sans for Japanese and Korean.

Both come from packages, so that the same release draws the same pixels wherever it runs: DejaVu lies in matplotlib's
data folder, Noto Sans in the extra `cjk`. A character that no font here holds becomes U+FFFD, never an empty box.
"""

import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"
_NOTO: Final = {"ja": "Noto Sans JP", "ko": "Noto Sans KR"}
_FOLDER: Final = {"Noto Sans JP": "ofl/notosansjp", "Noto Sans KR": "ofl/notosanskr"}


class FontMissing(RuntimeError):
    """A language cannot be drawn here; the text says what to install."""


@dataclass(frozen=True)
class Face:
    """A font file, and the weight to set where it holds all of them (0: it holds one)."""

    path: Path
    weight: int = 0


def check(language: str) -> None:
    """Raises FontMissing where the fonts of a language are not installed."""
    name = _NOTO.get(language)
    if name is not None and _noto(name, 400) is None:
        raise FontMissing(
            f'[report] language "{language}" needs the font {name}; install it with: pip install "prognode[cjk]"'
        )


def faces(language: str, bold: bool) -> tuple[Face, ...]:
    """The fonts to draw with, the language's own first. Raises FontMissing."""
    check(language)
    weight = 700 if bold else 400
    dejavu = Face(dejavu_folder() / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"))
    own = _NOTO.get(language)
    noto = [_noto(name, weight) for name in sorted(_FOLDER, key=lambda name: name != own)]
    found = [face for face in noto if face is not None]
    return (found[0], dejavu, *found[1:]) if own is not None else (dejavu, *found)


@cache
def characters(path: Path) -> frozenset[int]:
    """The code points that a font holds."""
    from fontTools.ttLib import TTFont  # noqa: PLC0415 - the worker asks here whether fonts are installed, long before

    with TTFont(path, lazy=True) as font:
        return frozenset(font.getBestCmap())


def runs(text: str, choice: tuple[Face, ...]) -> list[tuple[Face, str]]:
    """`text` cut into pieces, each with the first font that holds all of it."""
    known = _known(choice)
    pieces: list[tuple[Face, str]] = []
    for character in text:
        if character not in known:
            known[character] = _drawn(character, choice)
        place, drawn = known[character]
        face = choice[place]
        if pieces and pieces[-1][0] is face:
            pieces[-1] = (face, pieces[-1][1] + drawn)
        else:
            pieces.append((face, drawn))
    return pieces


@cache
def _known(choice: tuple[Face, ...]) -> dict[str, tuple[int, str]]:
    """What `_drawn` has said so far, for all equal choices: a page asks some ten thousand times."""
    return {}


def _drawn(character: str, choice: tuple[Face, ...]) -> tuple[int, str]:
    """The place of the first font that holds a character, and what is drawn for it."""
    for drawn in (character, REPLACEMENT):
        for place, face in enumerate(choice):
            if ord(drawn) in characters(face.path):
                return place, drawn
    raise LookupError("no font holds the replacement character")


@cache
def dejavu_folder() -> Path:
    """DejaVu as matplotlib brings it, found without importing matplotlib (half a second).

    Raises
    ------
    FileNotFoundError
        Where matplotlib is not installed.
    """
    found = importlib.util.find_spec("matplotlib")
    for folder in (found.submodule_search_locations or []) if found is not None else []:
        fonts = Path(folder) / "mpl-data" / "fonts" / "ttf"
        if fonts.is_dir():
            return fonts
    raise FileNotFoundError("the DejaVu fonts are not here; install matplotlib, whose data folder has them")


@cache
def _noto(name: str, weight: int) -> Face | None:
    """A variable font of the package `justmytype-intl-cjk`, found without importing it."""
    found = importlib.util.find_spec("justmytype_intl_cjk")
    for folder in (found.submodule_search_locations or []) if found is not None else []:
        path = Path(folder) / "fonts" / _FOLDER[name] / f"{name.replace(' ', '')}[wght].ttf"
        if path.is_file():
            return Face(path, weight)
    return None
