"""A chest drawn from formulas: the background of the synthetic CT. Makes training and demonstration data only.

`body` lays a patient out, in mm and without regard to any CT; `chest` draws the patient on a grid.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from analysis.train.synth import bones, mediastinum, vessels
from analysis.train.synth.build import Body as Build
from analysis.train.synth.build import build, measure
from analysis.train.synth.grid import AIR, MODEL, Canvas, Field, Grid, noise, onto

__all__ = ["AIR", "Body", "Grid", "body", "chest", "depth_in_lung"]

SKIN, FAT, MUSCLE, LUNG, LIVER = 10.0, -105.0, 55.0, -872.0, 108.0
# Where arteries (first two) and veins enter the lungs; z, y, x.
_HILA = ((-6.0, 14.0, -44.0), (0.0, 16.0, 45.0), (-22.0, 2.0, -40.0), (-22.0, 4.0, 40.0))


@dataclass(frozen=True)
class Body:
    """One patient: the large shapes, and the vessels of the lungs."""

    build: Build
    vessels: vessels.Vessels


def body(rng: np.random.Generator, female: bool = False) -> Body:
    """Draw a patient."""
    shape = build(measure(rng, female))
    return Body(shape, vessels.grow(shape.lung, _HILA, rng))


def chest(patient: Body, grid: Grid, rng: np.random.Generator) -> NDArray[np.float32]:
    """HU without the scanner's noise and blur, of the grid's shape."""
    shape, m = patient.build, patient.build.measures
    canvas = Canvas(grid)
    streaks, mottle = noise(grid, 11.0, rng), noise(grid, 5.0, rng, smooth=0)
    bones.paint_table(m, canvas)
    _paint_wall(shape, canvas, streaks)
    cavity = onto(shape.cavity, grid)
    canvas.fill(canvas.hu, cavity, FAT + 8 + 6 * streaks)
    bones.paint_ribs(m, canvas, cavity)
    bones.paint_shoulders(m, canvas, cavity)
    bones.paint_front(m, canvas)
    bones.paint_spine(m, canvas, mottle)
    below = np.asarray(np.maximum(onto(shape.diaphragm, grid), cavity + 1.5), np.float32)
    canvas.fill(canvas.hu, below, LIVER + 5 * mottle)
    mediastinum.paint_heart(m, canvas)
    mediastinum.paint_vessels(m, canvas, rng)
    lung = onto(shape.lung, grid)
    canvas.fill(canvas.hu, lung, _parenchyma(grid, streaks, mottle))
    vessels.paint(canvas, lung, patient.vessels)
    mediastinum.paint_airways(canvas)
    return canvas.hu


def depth_in_lung(patient: Body) -> tuple[Field, Grid]:
    """Signed distance to the lung's border, negative inside, and the grid it stands on."""
    return patient.build.lung, MODEL


def _paint_wall(shape: Build, canvas: Canvas, streaks: Field) -> None:
    skin = onto(shape.skin, canvas.grid)
    canvas.fill(canvas.hu, skin, SKIN)
    canvas.fill(canvas.hu, skin + 2.0, FAT + 7 * streaks)
    if shape.measures.female:
        _paint_glands(shape, canvas, streaks)
    canvas.fill(canvas.hu, onto(shape.muscle, canvas.grid), np.asarray(MUSCLE - 9 * np.abs(streaks), np.float32))


def _paint_glands(shape: Build, canvas: Canvas, streaks: Field) -> None:
    """Strands of gland in the fat of the breasts."""
    m = shape.measures
    low, high = (-120.0, -m.half_depth - 30, -74.0), (120.0, 12 - m.half_depth, 6.0)
    part = canvas.box(low, high)
    if part:
        view, (z, y, x) = part
        away = ((np.abs(x) - 64) / 36) ** 2 + ((y + m.half_depth + 6) / 18) ** 2 + ((z + 34) / 34) ** 2
        strand = streaks[canvas.parts(low, high)]
        share = np.sqrt(np.clip(1 - away, 0, 1)) * np.clip(1.6 * strand, 0, 0.85) * (np.abs(view - FAT) < 60)
        view += (share * (35 - view)).astype(np.float32)


def _parenchyma(grid: Grid, streaks: Field, mottle: Field) -> Field:
    """Denser towards the back, where a lying patient's blood is; lobules; fissures as faint lines."""
    z, y, x = grid.axes()
    value = LUNG + 0.30 * y + 9.0 * streaks + 13.0 * mottle
    wide = np.float32(max(1.3, grid.spacing_mm[1]))
    bow = 6 * np.sin(x / 38 + 0.6)
    oblique = (z + 4 + 1.1 * y - 0.12 * np.abs(x) + bow) / 1.5
    value += 75 * np.exp(-((oblique / wide) ** 2)) * (1.2 / wide)
    level = (z - 2 + 0.05 * y + 0.06 * np.abs(x + 60) + bow * 0.5) / 1.0
    across = (x < -20) & (z + 1.1 * y < 0)
    value += 60 * np.exp(-((level / np.float32(max(1.3, grid.spacing_mm[0] / 2))) ** 2)) * across * 0.6
    return np.asarray(value, np.float32)
