"""Arteries and veins of the synthetic lungs: trees that fill the lung, drawn once in mm, painted on any grid.

A tree joins points spread over the lung to the hilum, always by the edge that is cheapest in its own length plus a
share of the way back to the hilum: short wiring against short ways, after the idea of Cuntz et al., "One rule to grow
them all" (doi:10.1371/journal.pcbi.1000877). Radii follow Murray's law from the twigs inwards.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.train.synth.grid import MODEL, Canvas, Field, capsule

Points = NDArray[np.float64]  # (n, 3) mm; z, y, x
_TWIG_MM, _MURRAY = 0.62, 2.55
_WAY_BACK = 0.55
_BLOOD_HU = 90.0  # thin vessels are blurred, and never as bright as the great ones
_THICK = 1.1  # in voxels: from this radius on a vessel is drawn, below it is spread over the voxels that it touches


@dataclass(frozen=True)
class Vessels:
    """Straight pieces: starts and ends (n, 3) in mm (z, y, x), and radii at the ends (n, 2)."""

    start: Points
    end: Points
    radius: Points


def grow(lung: Field, hila: tuple[tuple[float, float, float], ...], rng: np.random.Generator) -> Vessels:
    """Trees from the hila (z, y, x) into the lung of their side.

    Parameters
    ----------
    lung : (slices, rows, columns) on MODEL
        Signed distance, negative inside.
    """
    pieces = []
    for hilum in hila:
        points = _spread(lung, hilum, rng)
        parents = _join(points)
        radii = _murray(parents)
        child = np.arange(1, len(points))
        bent = _bend(points[parents[1:]], points[child], rng)
        thin = np.column_stack([np.minimum(radii[parents[1:]], 1.25 * radii[child]), radii[child]])
        pieces.append((points[parents[1:]], bent, np.column_stack([thin[:, 0], thin.mean(axis=1)])))
        pieces.append((bent, points[child], np.column_stack([thin.mean(axis=1), thin[:, 1]])))
        pieces.append(_twigs(points, radii, rng))
    start, end, radius = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
    return Vessels(start, end, radius)


def _spread(lung: Field, hilum: tuple[float, float, float], rng: np.random.Generator) -> Points:
    """The hilum and points all over its lung: one of every few cells, at a random place in it."""
    z, y, x = (MODEL.axis(axis) for axis in range(3))
    cells = np.argwhere(lung < -3.0)
    places = np.column_stack([axis[cells[:, index]] for index, axis in enumerate((z, y, x))])
    places = places[np.sign(places[:, 2]) == np.sign(hilum[2])]
    block = np.floor((places + rng.uniform(0, 12, 3)) / 12.0).astype(int)
    order = rng.permutation(len(places))
    _, first = np.unique(block[order], axis=0, return_index=True)
    chosen = places[order[first]]
    chosen = chosen[rng.random(len(chosen)) < 0.85] if len(chosen) else chosen
    chosen = chosen + rng.uniform(-2, 2, chosen.shape)
    return np.vstack([np.array(hilum), chosen])


def _join(points: Points) -> NDArray[np.intp]:
    """Parent of each point; the first is the root."""
    count = len(points)
    parent = np.zeros(count, np.intp)
    way = np.linalg.norm(points - points[0], axis=1)  # back to the root, if joined as it stands
    cost = way.copy()
    cost[0] = np.inf
    for _ in range(count - 1):
        new = int(np.argmin(cost))
        cost[new] = np.inf
        distance = np.linalg.norm(points - points[new], axis=1)
        offer = distance + _WAY_BACK * way[new]
        better = (offer < cost) & np.isfinite(cost)
        cost[better] = offer[better]
        parent[better] = new
        way[better] = way[new] + distance[better]
    return parent


def _murray(parent: NDArray[np.intp]) -> NDArray[np.float64]:
    """Radius of the vessel that ends in each point."""
    count = len(parent)
    depth = np.zeros(count, int)
    for index in range(1, count):
        at = index
        while at:
            at, depth[index] = int(parent[at]), depth[index] + 1
    flow = np.zeros(count)
    for index in np.argsort(-depth, kind="stable"):
        flow[index] = max(flow[index], _TWIG_MM**_MURRAY)
        if index:
            flow[parent[index]] += flow[index]
    return np.asarray(flow ** (1 / _MURRAY))


def _bend(start: Points, end: Points, rng: np.random.Generator) -> Points:
    """A point somewhere near the middle of each piece, a little off the line."""
    length = np.linalg.norm(end - start, axis=1, keepdims=True)
    return np.asarray((start + end) / 2 + rng.normal(0, 0.07, start.shape) * length)


def _twigs(points: Points, radii: NDArray[np.float64], rng: np.random.Generator) -> tuple[Points, Points, Points]:
    """Fine side branches; too fine to be told apart, they make the lung's texture."""
    root = rng.integers(1, len(points), 5 * len(points)) if len(points) > 1 else np.zeros(0, int)
    start = points[root] + rng.normal(0, 3.0, (len(root), 3))
    way = rng.normal(0, 1, start.shape)
    way *= rng.uniform(4, 10, (len(root), 1)) / np.linalg.norm(way, axis=1, keepdims=True)
    return start, start + way, np.tile([0.45, 0.25], (len(root), 1))


def paint(canvas: Canvas, lung: Field, vessels: Vessels) -> None:
    """Paint the vessels into the lung; `lung` is the signed distance on the canvas's grid."""
    limit = _THICK * canvas.grid.spacing_mm[1]
    thick = vessels.radius.max(axis=1) > limit
    share = _spread_thin(canvas, vessels, ~thick)
    np.clip(share, 0, 1, out=share)
    share *= canvas.cover(lung + 1.0)
    canvas.hu += share * np.maximum(_BLOOD_HU - canvas.hu, 0)
    for start, end, radius in zip(vessels.start[thick], vessels.end[thick], vessels.radius[thick], strict=True):
        most = float(radius.max())
        low, high = np.minimum(start, end) - most, np.maximum(start, end) + most
        part = canvas.box((low[2], low[1], low[0]), (high[2], high[1], high[0]))
        if part:
            view, axes = part
            first, last = ((float(p[2]), float(p[1]), float(p[0])) for p in (start, end))
            distance = capsule(axes, first, last, float(radius[0]), float(radius[1]))
            view += canvas.cover(distance) * np.maximum(_BLOOD_HU + 30 - view, 0)


def _spread_thin(canvas: Canvas, vessels: Vessels, which: NDArray[np.bool_]) -> Field:
    """The part of each voxel that thin vessels take up, each step of a vessel shared among its eight neighbours."""
    grid = canvas.grid
    spacing = np.array(grid.spacing_mm)
    start, end, radius = vessels.start[which], vessels.end[which], vessels.radius[which]
    length = np.linalg.norm(end - start, axis=1)
    step = 0.6 * float(spacing[1])
    counts = np.maximum(1, np.ceil(length / step).astype(int))
    owner = np.repeat(np.arange(len(counts)), counts)
    t = (np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts, counts) + 0.5) / counts[owner]
    at = start[owner] + (end - start)[owner] * t[:, None]
    thickness = radius[owner, 0] + (radius[owner, 1] - radius[owner, 0]) * t
    volume = np.pi * thickness**2 * (length / counts)[owner] / np.prod(spacing)
    index = at / spacing + (np.array(grid.shape) - 1) / 2
    low = np.floor(index).astype(int)
    part = index - low
    total = np.zeros(int(np.prod(grid.shape)))
    for corner in np.ndindex(2, 2, 2):
        place = low + corner
        weight = volume * np.prod(np.where(corner, part, 1 - part), axis=1)
        inside = ((place >= 0) & (place < grid.shape)).all(axis=1)
        flat = np.ravel_multi_index(tuple(place[inside].T), grid.shape)
        total += np.bincount(flat, weight[inside], minlength=total.size)
    return np.asarray(total.reshape(grid.shape), np.float32)
