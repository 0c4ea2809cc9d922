"""Synthetic data sets as the planner sees them: saved, and read back by `headers.read`."""

import hashlib
import tempfile
from collections.abc import Iterable
from pathlib import Path

from pydicom.dataset import Dataset

from dicom_node import headers
from dicom_node.instance import Instance
from tests.synthetic import save


def fact(dataset: Dataset) -> Instance:
    """Header facts of one data set; the digest is that of the file, for want of a network."""
    with tempfile.TemporaryDirectory() as folder:
        return read(save(dataset, Path(folder)))


def facts(datasets: Iterable[Dataset]) -> list[Instance]:
    """Header facts of each data set, in the order given."""
    return [fact(dataset) for dataset in datasets]


def read(path: Path) -> Instance:
    """Header facts of a Part 10 file."""
    return headers.read(path, hashlib.sha256(path.read_bytes()).hexdigest())
