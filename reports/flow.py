"""Where a line of text may be broken: at spaces, and in Japanese between most characters."""

import re
from typing import Final

# A run of Latin letters or digits stays whole, with the one character after it ("100人"); the rest breaks anywhere.
_JAPANESE: Final = re.compile(r"[!-~\u00a0-\u024f]+[^\s!-~\u00a0-\u024f]?|[^\s]")
_NOT_FIRST: Final = frozenset(
    "、。，．・：；？！）」』】〉》〕］｝ー々ぁぃぅぇぉっゃゅょゎァィゥェォッャュョヮ％…,.:;)%"
)  # kinsoku
_NOT_LAST: Final = frozenset("（「『【〈《〔［｛(")


def pieces(text: str, language: str) -> list[str]:
    """`text` in pieces that stay whole, each with the space that follows it.

    >>> pieces("31 of 100", "en"), pieces("約31人が死亡。", "ja")
    (['31 ', 'of ', '100'], ['約', '31人', 'が', '死', '亡。'])
    """
    found: list[str] = []
    for word in re.findall(r"[^ \t\r\n]+[ \t\r\n]*", text):
        body = word.rstrip(" \t\r\n")
        parts = _japanese(body) if language == "ja" else [body]
        if body != word:
            parts[-1] += " "
        found += parts
    return found


def _japanese(word: str) -> list[str]:
    parts: list[str] = []
    for part in _JAPANESE.findall(word):
        if parts and (part[0] in _NOT_FIRST or parts[-1][-1] in _NOT_LAST):
            parts[-1] += part
        else:
            parts.append(part)
    return parts
