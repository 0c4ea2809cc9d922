"""Stores of targets that change the same few rows: thousands of revisions of one object are no hospital."""

import uuid
from pathlib import Path

from dicom_node.store import Store

MOST_BYTES = 3_000_000


def renewed(store: Store, folder: Path) -> Store:
    """The store, or an empty one in its place when it has grown."""
    path = max(folder.glob("*.sqlite"), key=lambda one: one.stat().st_mtime_ns)
    if path.stat().st_size < MOST_BYTES:
        return store
    store.close()
    path.unlink()
    return Store.open(folder / f"{uuid.uuid4().hex}.sqlite")
