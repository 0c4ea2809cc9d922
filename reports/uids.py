"""UIDs derived from content: the same inputs give the same UID, and anything that changes content gives another."""

import hashlib
import json
import uuid
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from analysis.contract import JobResult
from reports.context import ReportContext, fingerprint

_NAMESPACE: Final = uuid.UUID("6f1d6a0e-6c5b-5d0e-9a56-3f0a5b1f7c42")


def derive(kind: str, *parts: str) -> str:
    """`2.25.<uuid5>` (PS3.5 B.2) of a kind and the parts that decide it.

    >>> derive("series", "a") == derive("series", "a") != derive("series", "b")
    True
    >>> len(derive("series", "a")) <= 44
    True
    """
    return f"2.25.{uuid.uuid5(_NAMESPACE, json.dumps([kind, *parts])).int}"


def device_uid(ae_title: str, site: str) -> str:
    """Device Observer UID of an installation (TID 1004)."""
    return derive("device", ae_title, site)


def content_parts(context: ReportContext, result: JobResult | None, *more: str) -> tuple[str, ...]:
    """The parts that decide a report's content."""
    dump = "" if result is None else result.model_dump_json()
    return (fingerprint(context), dump, *more)


def digest(array: NDArray[Any]) -> str:
    """SHA-256 of an array's shape and values: part of the UID of an object that holds it."""
    plain = np.ascontiguousarray(array)
    made = hashlib.sha256(repr((plain.shape, plain.dtype.str)).encode())
    made.update(plain.reshape(-1).view(np.uint8).data)  # not copied: a mask of a chest has 80 MB
    return made.hexdigest()
