"""A node whose one study is delivered and proved: made once, copied for each test that takes something away from it."""

import atexit
import functools
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from _pytest.mark import ParameterSet
from pydicom import Dataset

from config.keeping import Storage
from config.settings import Deliver, Peer, Settings
from dicom_node.demo_pacs import DemoPacs
from tests.road import ROOMY, Clock, Road, road
from tests.synthetic import ct_series, rtstruct

DAY = 86_400.0
PACS = "PACS"


@functools.cache
def study() -> tuple[Dataset, ...]:
    """16 CT and their contour, in this order."""
    ct = ct_series(16, 40, 40, seed=31)
    return (*ct, rtstruct(ct))


@functools.cache
def _delivered() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="prognode-delivered-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with DemoPacs(folder / "pacs", PACS, commitment="same") as pacs:
        made = road(folder, peers=(peer(pacs),), deliver=Deliver(connect_timeout_seconds=5.0))
        made.take(*study())
        made.work()
        made.later(60.0)
    (item,) = made.items
    assert item.state == "COMPLETED", made.store.details(item.id)
    made.store.close()
    made.worker._store.close()
    return folder


def peer(pacs: DemoPacs) -> Peer:
    return Peer(pacs.ae_title, pacs.host, pacs.port, sends=True, receives_results=True)


def delivered(folder: Path, pacs: DemoPacs | None = None, storage: Storage | None = None, days: float = 0.0) -> Road:
    """A copy of it, `days` later; with `pacs`, results go there and nothing that was sent before is in it."""
    shutil.copytree(_delivered() / "spool", folder / "spool")
    peers = (peer(pacs),) if pacs else (Peer(PACS, port=1, receives_results=True),)
    settings = replace(Settings(), peers=peers, storage=storage or ROOMY, deliver=Deliver(connect_timeout_seconds=2.0))
    return Road(folder, settings, Clock(1_700_000_060.0 + days * DAY))


def copied_pacs(folder: Path) -> Path:
    """The folder of a PACS that holds the results."""
    shutil.copytree(_delivered() / "pacs", folder)
    return folder


def exhaustive(*values: object) -> list[ParameterSet]:
    """Parameters of the long form only (`make exhaustive`)."""
    return [pytest.param(value, marks=pytest.mark.exhaustive) for value in values]
