"""Log lines: what they are about, as text or JSON. Leaf of the node: standard library only; no patient data.

Every line that concerns a study ends with its mark, from the association that brought it to the delivery of its
result, in every process: one grep follows it. The mark is a digest of the Study Instance UID.
"""

import hashlib
import json
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TextIO

FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"
MOST_VALUES = 8  # of one kind in a line: an association may bring hundreds of studies
_EVENT = re.compile(r"[a-z_0-9]+\.[a-z_0-9]+(?= |$)")
_about: ContextVar[Mapping[str, tuple[str, ...]]] = ContextVar("about", default={})  # noqa: B039 - it is never changed


def mark_of(study_instance_uid: str) -> str:
    """How a study is named in the log: twelve hexadecimal digits of the SHA-256 of its UID.

    >>> mark_of("1.2.3")
    'c47f5b18b8a4'
    """
    return hashlib.sha256(study_instance_uid.encode()).hexdigest()[:12]


@contextmanager
def about(**what: str | tuple[str, ...]) -> Iterator[None]:
    """Lines of this thread inside the block end with these marks, beside those of blocks around it."""
    now = dict(_about.get())
    for kind, values in what.items():
        more = (values,) if isinstance(values, str) else values
        now[kind] = tuple(dict.fromkeys((*now.get(kind, ()), *filter(None, more))))
    token = _about.set(now)
    try:
        yield
    finally:
        _about.reset(token)


class AsText(logging.Formatter):
    """`2026-03-02 09:15:30,123 INFO dicom_node.loop workitem.scored ... [study c47f5b18b8a4]`"""

    def __init__(self) -> None:
        super().__init__(FORMAT)

    def format(self, record: logging.LogRecord) -> str:
        """The line, and what it is about."""
        marks = ", ".join(f"{kind} {' '.join(_few(values))}" for kind, values in _about.get().items() if values)
        return f"{super().format(record)} [{marks}]" if marks else super().format(record)


class AsJson(logging.Formatter):
    """One JSON object a line: time (UTC), level, logger, event, message, trace where there is one, and the marks."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        message = record.getMessage()
        event = _EVENT.match(message)
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": event.group() if event else "",
            "message": message,
            **{kind: _few(values) for kind, values in _about.get().items() if values},
        }
        if record.exc_info:
            line["trace"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def _few(values: tuple[str, ...]) -> list[str]:
    more = len(values) - MOST_VALUES
    return [*values[:MOST_VALUES], f"and {more} more"] if more > 0 else list(values)


def write_to(stream: TextIO, level: int = logging.INFO, *, as_json: bool = False) -> None:
    """Log there, once for the whole process."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(AsJson() if as_json else AsText())
    logging.basicConfig(level=level, handlers=[handler])
