"""The site's tables as files: encoding, separator, header and lines. What the cells mean is `clinical_import`'s."""

import codecs
import csv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

SEPARATORS = (",", ";", "\t", "|")
MAXIMUM_COLUMNS = 2000
MAXIMUM_CELL = 256


class TableError(ValueError):
    """The file cannot be read as a table; the text names the place and the remedy, never a cell."""


@dataclass(frozen=True)
class Line:
    """One record: the line where it ends, and its cells by column; `wrong` says why it cannot be used."""

    number: int
    cells: tuple[str, ...]
    wrong: str = ""


class Table:
    """A CSV file with column names in its first line, read line by line. Raises TableError, OSError."""

    def __init__(self, path: Path, encoding: str = "", separator: str = "") -> None:
        """`encoding`: '' is UTF-8, with or without a mark, or UTF-16 with one; `separator`: '' finds it out."""
        self._path = path
        self.encoding = encoding or _encoding(path)
        self._number = 0  # of the last line that was read
        self.separator = separator or self._found_separator()
        with self._open() as stream:
            self.columns = tuple(name.strip() for name in next(self._reader(stream), []))
        if len(self.columns) > MAXIMUM_COLUMNS:
            raise TableError(f"has {len(self.columns)} columns; {MAXIMUM_COLUMNS} are the most")
        doubled = sorted({name for name in self.columns if name and self.columns.count(name) > 1})
        if doubled:
            raise TableError(f"column {doubled[0]!r} stands there twice; give each column a name of its own")

    def lines(self) -> Iterator[Line]:
        """Every line but the header and empty ones."""
        with self._open() as stream:
            reader = self._reader(stream)
            next(reader, None)
            for row in reader:
                self._number = reader.line_num
                if any(cell.strip() for cell in row):
                    yield Line(self._number, tuple(cell.strip() for cell in row), self._wrong(row))

    def _wrong(self, row: list[str]) -> str:
        if len(row) != len(self.columns):
            hint = "; a number with a decimal comma needs quotation marks here" if self.separator == "," else ""
            return f"has {len(row)} fields instead of {len(self.columns)}{hint}"
        if any(len(cell) > MAXIMUM_CELL for cell in row):
            return f"has a field of more than {MAXIMUM_CELL} characters"
        return ""

    @contextmanager
    def _open(self) -> Iterator[IO[str]]:
        self._number = 0
        try:
            with self._path.open(encoding=self.encoding, newline="") as stream:
                yield stream
        except LookupError:
            raise TableError(f"encoding {self.encoding!r} is not known; give utf-8, utf-16, cp1252 ...") from None
        except UnicodeError:
            where = f"after line {self._number}: " if self._number else ""
            raise TableError(f"{where}is not {self.encoding}; give its encoding, such as --encoding cp1252") from None
        except csv.Error as error:
            raise TableError(f"after line {self._number}: is not CSV ({error}); look at its quotation marks") from None

    def _reader(self, stream: IO[str]) -> Any:
        return csv.reader(stream, delimiter=self.separator, strict=True)

    def _found_separator(self) -> str:
        with self._open() as stream:
            first = stream.readline(1_000_000)
        found = max(SEPARATORS, key=first.count)
        if not first.count(found):
            raise TableError("line 1 has one column only; give --separator, and the names of the columns in line 1")
        return found


def _encoding(path: Path) -> str:
    with path.open("rb") as stream:
        begin = stream.read(2)
    return "utf-16" if begin in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
