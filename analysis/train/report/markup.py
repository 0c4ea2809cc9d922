"""Small pieces of HTML with everything escaped: headings, lists, tables that a screen reader can follow."""

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Cell:
    """A table cell: `text` is escaped, `markup` (ours alone, never from data) is not.

    `span` columns wide, `down` rows high; `tone` is a class of the style sheet.
    """

    text: str = ""
    markup: str = ""
    span: int = 1
    down: int = 1
    tone: str = ""

    def inside(self) -> str:
        """What stands between the tags."""
        return html.escape(self.text) + self.markup


@dataclass(frozen=True)
class Row:
    """A header cell and the cells it heads."""

    head: Cell
    cells: Sequence[Cell]
    tone: str = ""


@dataclass(frozen=True)
class Table:
    """A captioned table: one or two rows of column headers, then rows headed by their first cell.

    `heads[0]` may hold cells that span columns of `heads[1]`.
    """

    caption: str
    heads: Sequence[Sequence[Cell]]
    rows: Sequence[Row]
    notes: Sequence[str] = field(default_factory=tuple)

    def html(self) -> str:
        """The table in a box that scrolls by itself where the page is narrow; focusable for the keyboard."""
        name = html.escape(self.caption, quote=True)
        parts = [
            f'<div class="scroll" role="region" aria-label="{name}" tabindex="0"><table>',
            f"<caption>{html.escape(self.caption)}</caption><thead>",
            *(f"<tr>{''.join(_column(cell) for cell in row)}</tr>" for row in self.heads),
            "</thead><tbody>",
            *(_row(row) for row in self.rows),
            "</tbody></table></div>",
            *(f'<p class="note">{html.escape(note)}</p>' for note in self.notes),
        ]
        return "\n".join(parts)


def _column(cell: Cell) -> str:
    scope = "colgroup" if cell.span > 1 else "col"
    return f'<th scope="{scope}"{_attributes(cell)}>{cell.inside()}</th>'


def _row(row: Row) -> str:
    tone = f' class="{row.tone}"' if row.tone else ""
    cells = "".join(f"<td{_attributes(cell)}>{cell.inside()}</td>" for cell in row.cells)
    return f'<tr{tone}><th scope="row"{_attributes(row.head)}>{row.head.inside()}</th>{cells}</tr>'


def _attributes(cell: Cell) -> str:
    span = (f' colspan="{cell.span}"' if cell.span > 1 else "") + (f' rowspan="{cell.down}"' if cell.down > 1 else "")
    tone = f' class="{cell.tone}"' if cell.tone else ""
    return span + tone


def paragraph(text: str, tone: str = "") -> str:
    """A paragraph; `tone` is a class of the style sheet."""
    marked = f' class="{tone}"' if tone else ""
    return f"<p{marked}>{html.escape(text)}</p>"


def bullets(lines: Iterable[str]) -> str:
    """A list of sentences."""
    return "<ul>" + "".join(f"<li>{html.escape(line)}</li>" for line in lines) + "</ul>"


def definitions(pairs: Iterable[tuple[str, str]], tone: str = "") -> str:
    """Terms and what they mean, or facts and their values."""
    inside = "".join(f"<div><dt>{html.escape(term)}</dt><dd>{html.escape(text)}</dd></div>" for term, text in pairs)
    marked = f' class="{tone}"' if tone else ""
    return f"<dl{marked}>{inside}</dl>"


def figure(picture: str, caption: str) -> str:
    """A picture of ours (inline SVG, already safe) under its caption."""
    return f"<figure><figcaption>{html.escape(caption)}</figcaption>{picture}</figure>"


def section(name: str, title: str, parts: Sequence[str]) -> str:
    """A section with its heading; nothing where it holds nothing."""
    if not any(parts):
        return ""
    inside = "\n".join(part for part in parts if part)
    heading = f'<h2 id="{name}-title">{html.escape(title)}</h2>'
    return f'<section id="{name}" aria-labelledby="{name}-title">\n{heading}\n{inside}\n</section>'
