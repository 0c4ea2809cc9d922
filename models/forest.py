"""Forests as plain arrays: `forests.npz`, read without pickle, evaluated with numpy to the last bit of the original.

Each forest holds two sets of trees: row 0, the model, and rows 1 to n, small refits on resamples for the interval.
All nodes of a forest stand one after another; `left` and `right` are positions in them, a leaf points to itself.
"""

import io
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_KINDS = {
    "roots": np.dtype("<i4"),
    "rows": np.dtype("<i4"),
    "feature": np.dtype("<i2"),
    "threshold": np.dtype("<f8"),
    "left": np.dtype("<i4"),
    "right": np.dtype("<i4"),
    "value": np.dtype("<f8"),
}
MAXIMUM_DEPTH = 64
MAXIMUM_BYTES = 256_000_000  # of all arrays unpacked: a few kilobytes can unpack to more than there is memory
_DAMAGE = (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError, ValueError)


class ForestInvalid(Exception):
    """The arrays do not describe a forest; the text says which."""


@dataclass(frozen=True, eq=False)
class Forest:
    """Trees over the columns of a design row.

    Attributes
    ----------
    roots, rows : shape (trees,)
        Root node of each tree, and which set it belongs to: 0 the model, 1.. a bootstrap refit.
    feature, threshold, left, right, value : shape (nodes,)
        Go left where float32(z[feature]) <= threshold; `value` is the mean outcome of the training patients of a
        node (a cumulative hazard or a probability), so that each step down a tree is one feature's doing.
    """

    roots: NDArray[np.int32]
    rows: NDArray[np.int32]
    feature: NDArray[np.int16]
    threshold: Floats
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    value: Floats

    def means(self, z: Floats, count: int) -> Floats:
        """Mean leaf value of the trees of each row 0..count, shape (..., count + 1).

        Parameters
        ----------
        z : shape (..., columns)
            Design row of one patient, or of many.
        """
        patients = z.reshape(-1, z.shape[-1])
        leaves = self._leaves(patients)
        cell = np.arange(len(patients))[:, None] * (count + 1) + self.rows
        total = np.bincount(
            cell.ravel(), weights=self.value[leaves].ravel(), minlength=len(patients) * (count + 1)
        ).reshape(*z.shape[:-1], count + 1)
        return np.asarray(total / np.bincount(self.rows, minlength=count + 1))

    def path(self, z: Floats, columns: int) -> tuple[float, Floats]:
        """Mean root value of the model's trees, and what each column added on the way down, shape (columns,)."""
        model = self.rows == 0
        nodes, trees = self.roots[model], int(model.sum())
        start, added = float(self.value[nodes].mean()), np.zeros(columns)
        for _ in range(MAXIMUM_DEPTH):
            after = self._step(nodes[None], z[None])[0]
            moved = after != nodes
            if not moved.any():
                break
            steps = self.value[after[moved]] - self.value[nodes[moved]]
            np.add.at(added, self.feature[nodes[moved]], steps / trees)
            nodes = after
        return start, added

    def _leaves(self, z: Floats) -> NDArray[np.int32]:
        """Leaf of every patient in every tree, shape (patients, trees)."""
        nodes = np.broadcast_to(self.roots, (len(z), len(self.roots)))
        for _ in range(MAXIMUM_DEPTH):
            after = self._step(nodes, z)
            if np.array_equal(after, nodes):
                break
            nodes = after
        return nodes

    def _step(self, nodes: NDArray[np.int32], z: Floats) -> NDArray[np.int32]:
        # scikit-learn compares in single precision: so must we, or a value on a threshold goes the other way.
        values = np.take_along_axis(z.astype(np.float32), self.feature[nodes].astype(np.intp), axis=1)
        return np.where(values <= self.threshold[nodes], self.left[nodes], self.right[nodes])

    def check(self, columns: int, refits: int) -> None:
        """Raise ForestInvalid where a walk could leave the arrays or never end, or a row has no tree."""
        nodes = len(self.feature)
        here = np.arange(nodes)
        for name in ("threshold", "left", "right", "value"):
            if getattr(self, name).shape != (nodes,):
                raise ForestInvalid(f"{name} has another length than feature")
        if self.roots.ndim != 1 or self.rows.shape != self.roots.shape:
            raise ForestInvalid("roots and rows differ in number")
        if set(self.rows.tolist()) != set(range(refits + 1)):
            raise ForestInvalid("a row has no tree, or there are rows too many")
        if nodes == 0 or self.roots.min() < 0 or self.roots.max() >= nodes:
            raise ForestInvalid("a root is no node")
        if self.feature.min() < 0 or self.feature.max() >= columns:
            raise ForestInvalid("a node asks for a column that is not there")
        # Children come after their parent, so every walk ends.
        leaf = (self.left == here) & (self.right == here)
        for child in (self.left, self.right):
            if (~leaf & (child <= here)).any() or (child < 0).any() or (child >= nodes).any():
                raise ForestInvalid("a child stands before its parent or outside the arrays")
        if not (np.isfinite(self.threshold).all() and np.isfinite(self.value).all()):
            raise ForestInvalid("a threshold or value is not a finite number")
        self._check_depth(leaf)

    def _check_depth(self, leaf: NDArray[np.bool_]) -> None:
        """A walk stops after MAXIMUM_DEPTH steps: a deeper tree would give the value of a node on the way."""
        level = np.unique(self.roots)
        for _ in range(MAXIMUM_DEPTH):
            level = level[~leaf[level]]
            if not level.size:
                return
            level = np.unique(np.concatenate([self.left[level], self.right[level]]))
        if not leaf[level].all():
            raise ForestInvalid(f"a tree is deeper than {MAXIMUM_DEPTH} steps")


def to_bytes(forests: Mapping[str, Forest]) -> bytes:
    """`forests.npz`: the same forests give the same bytes."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, forest in sorted(forests.items()):
            for name, kind in _KINDS.items():
                array = io.BytesIO()
                np.lib.format.write_array(array, getattr(forest, name).astype(kind), allow_pickle=False)
                entry = zipfile.ZipInfo(f"{key}/{name}.npy", (1980, 1, 1, 0, 0, 0))
                entry.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(entry, array.getvalue())
    return out.getvalue()


def from_bytes(content: bytes, keys: frozenset[str]) -> dict[str, Forest]:
    """Read `forests.npz`, which must hold exactly the forests `keys`.

    Raises
    ------
    ForestInvalid
        The file is damaged, holds something else, or an array is of another kind.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            _check_entries(archive.infolist(), sorted(f"{key}/{name}.npy" for key in keys for name in _KINDS))
            packed = {name: archive.read(name) for name in archive.namelist()}
    except _DAMAGE as error:
        raise ForestInvalid(f"not an archive of arrays ({type(error).__name__})") from error
    return {key: Forest(**{name: _array(packed[f"{key}/{name}.npy"], name) for name in _KINDS}) for key in sorted(keys)}


def _check_entries(entries: list[zipfile.ZipInfo], wanted: list[str]) -> None:
    """Before anything is unpacked."""
    if sorted(entry.filename for entry in entries) != wanted:
        raise ForestInvalid("the arrays in it are not those that model.json names")
    if sum(entry.file_size for entry in entries) > MAXIMUM_BYTES:
        raise ForestInvalid(f"it unpacks to more than {MAXIMUM_BYTES} bytes")
    if any(entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for entry in entries):
        raise ForestInvalid("it is packed in another way than deflated")


def _array(content: bytes, name: str) -> Any:
    """One array; its length is compared with the bytes that are there before anything of that length is made."""
    stream = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(stream)
        shape, _, kind = np.lib.format.read_array_header_1_0(stream)
    except ValueError as error:
        raise ForestInvalid(f"{name} is no plain array") from error
    if version != (1, 0) or kind != _KINDS[name] or len(shape) != 1:
        raise ForestInvalid(f"{name} is of another kind")
    if shape[0] * kind.itemsize != len(content) - stream.tell():
        raise ForestInvalid(f"{name} is cut short or too long")
    return np.frombuffer(content, kind, offset=stream.tell())


assert {field.name for field in fields(Forest)} == set(_KINDS)
