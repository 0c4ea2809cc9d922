"""Forests as plain arrays: `forests.npz`, read without pickle, evaluated with numpy to the last bit of the original.

Each forest holds two sets of trees: row 0, the model, and rows 1 to n, small refits on resamples for the interval.
All nodes of a forest stand one after another; `left` and `right` are positions in them, a leaf points to itself.
"""

import io
import zipfile
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


class ForestInvalid(ValueError):
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
        """Mean leaf value of the trees of each row 0..count for one design row, shape (count + 1,)."""
        total = np.bincount(self.rows, weights=self.value[self._leaves(z)], minlength=count + 1)
        return np.asarray(total / np.bincount(self.rows, minlength=count + 1))

    def path(self, z: Floats, columns: int) -> tuple[float, Floats]:
        """Mean root value of the model's trees, and what each column added on the way down, shape (columns,)."""
        model = self.rows == 0
        nodes, trees = self.roots[model], int(model.sum())
        start, added = float(self.value[nodes].mean()), np.zeros(columns)
        for _ in range(MAXIMUM_DEPTH):
            after = self._step(nodes, z)
            moved = after != nodes
            if not moved.any():
                break
            steps = self.value[after[moved]] - self.value[nodes[moved]]
            np.add.at(added, self.feature[nodes[moved]], steps / trees)
            nodes = after
        return start, added

    def _leaves(self, z: Floats) -> NDArray[np.int32]:
        nodes = self.roots
        for _ in range(MAXIMUM_DEPTH):
            after = self._step(nodes, z)
            if np.array_equal(after, nodes):
                break
            nodes = after
        return nodes

    def _step(self, nodes: NDArray[np.int32], z: Floats) -> NDArray[np.int32]:
        # scikit-learn compares in single precision: so must we, or a value on a threshold goes the other way.
        goes_left = z.astype(np.float32)[self.feature[nodes]] <= self.threshold[nodes]
        return np.where(goes_left, self.left[nodes], self.right[nodes])

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
        for child in (self.left, self.right):
            leaf = (self.left == here) & (self.right == here)
            if (~leaf & (child <= here)).any() or (child >= nodes).any():
                raise ForestInvalid("a child stands before its parent or outside the arrays")
        if not (np.isfinite(self.threshold).all() and np.isfinite(self.value).all()):
            raise ForestInvalid("a threshold or value is not a finite number")


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
            wanted = {f"{key}/{name}.npy" for key in keys for name in _KINDS}
            if set(archive.namelist()) != wanted:
                raise ForestInvalid("the arrays in it are not those that model.json names")
            found = {}
            for key in sorted(keys):
                arrays = {name: _array(archive.read(f"{key}/{name}.npy"), name) for name in _KINDS}
                found[key] = Forest(**arrays)
            return found
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError) as error:
        raise ForestInvalid(f"not an archive of arrays ({type(error).__name__})") from error


def _array(content: bytes, name: str) -> Any:
    try:
        array = np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
    except ValueError as error:
        raise ForestInvalid(f"{name} is no plain array") from error
    if array.dtype != _KINDS[name] or array.ndim != 1:
        raise ForestInvalid(f"{name} is of another kind")
    return array


assert {field.name for field in fields(Forest)} == set(_KINDS)
