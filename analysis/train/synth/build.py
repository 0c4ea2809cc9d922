"""One patient's build: the large shapes of a chest as signed distances on MODEL. Sizes are typical of an adult."""

from dataclasses import dataclass

import numpy as np

from analysis.train.synth import mediastinum
from analysis.train.synth.grid import MODEL, Axes, Field, ellipsoid, rise, rounded, union

CAVITY_Y = -8.0  # the cavity lies before the middle of the body: the back is thicker than the front


@dataclass(frozen=True)
class Measures:
    """What differs from patient to patient; half-widths and thicknesses in mm, contrast in HU."""

    half_width: float
    half_depth: float
    fat: float
    heart: float
    shift: float  # of heart and great vessels, to the left
    dome: float  # top of the right half of the diaphragm, z
    blood: float
    rib_phase: float
    female: bool

    @property
    def cavity(self) -> tuple[float, float]:
        """Half-width and half-depth of the pleural cavity."""
        return self.half_width - self.fat - 20.0, self.half_depth - 0.6 * self.fat - 21.0

    @property
    def front(self) -> float:
        """y of the back of the sternum."""
        return CAVITY_Y - self.cavity[1]

    @property
    def spine(self) -> float:
        """y of the middle of the vertebral bodies."""
        return CAVITY_Y + self.cavity[1] - 31.0


@dataclass(frozen=True)
class Body:
    """Signed distances on MODEL: outline, muscles, both pleural cavities with all between, diaphragm, lungs."""

    measures: Measures
    skin: Field
    muscle: Field
    cavity: Field
    diaphragm: Field
    lung: Field


def measure(rng: np.random.Generator, female: bool) -> Measures:
    """Draw a patient's measures."""
    fat = float(rng.uniform(9, 24)) + (3 if female else 0)
    small = 0.95 if female else 1.0
    return Measures(
        half_width=float(rng.uniform(140, 154)) * small + 0.6 * (fat - 12),
        half_depth=float(rng.uniform(106, 119)) * small + 0.6 * (fat - 12),
        fat=fat,
        heart=float(rng.uniform(0.90, 1.08)),
        shift=float(rng.uniform(-3, 4)),
        dome=float(rng.uniform(-58, -42)),
        blood=float(rng.uniform(140, 190)),
        rib_phase=float(rng.uniform(0, 25)),
        female=female,
    )


def build(measures: Measures) -> Body:
    """Lay out the large shapes."""
    z, y, x = axes = MODEL.axes()
    skin = _skin(measures, axes)
    width, depth = measures.cavity
    narrow = np.asarray((1 - 0.11 * rise(z, -40, 75)) * (1 - 0.26 * rise(z, 35, 118)), np.float32)
    deep = np.asarray(depth * (0.45 + 0.55 * narrow), np.float32)
    cavity = rounded(x, y - CAVITY_Y, (np.asarray(width * narrow, np.float32), deep), 2.25)
    muscle = np.maximum(_muscle(measures, cavity, axes), skin + 2.5 + 0.3 * measures.fat)
    diaphragm = _diaphragm(measures, axes)
    lung = np.maximum(cavity + 1.5, -mediastinum.outline(measures, axes))
    lung = np.maximum(lung, np.maximum(-diaphragm, _apices(measures, axes)))
    return Body(measures, skin, muscle, cavity, diaphragm, np.asarray(lung, np.float32))


def _skin(m: Measures, axes: Axes) -> Field:
    z, y, x = axes
    skin = rounded(x, y, (m.half_width, m.half_depth), 2.35) + 0 * z
    for side in (-1, 1):
        skin = union(skin, ellipsoid(axes, (side * (m.half_width - 40), 28.0, 112.0), (66.0, 56.0, 74.0)), 40)
        if m.female:
            skin = union(skin, ellipsoid(axes, (side * 64.0, 8.0 - m.half_depth, -34.0), (54.0, 34.0, 50.0)), 16)
    groove = 5.0 * np.exp(-((x / 18) ** 2)) * (y > 0)
    # Lying on the table flattens the back.
    return np.asarray(np.maximum(skin + groove, y - m.half_depth + 2.5), np.float32)


def _bump(value: Field, centre: float, half: float) -> Field:
    return np.asarray(np.sqrt(np.clip(1 - ((value - centre) / half) ** 2, 0, 1)), np.float32)


def _muscle(m: Measures, cavity: Field, axes: Axes) -> Field:
    """Sheets that follow the wall at their own distance, and the columns beside the spine."""
    z, y, x = axes
    angle = np.arctan2(np.abs(x), y - CAVITY_Y)  # 0 at the spine, pi at the sternum
    sheets = (  # distance from the cavity, thickness of half, where it lies
        (16.5, 4.0 * _bump(angle, 1.45, 0.75) * (1 - 0.6 * rise(z, 20, 60))),  # serratus anterior
        (24.0, 6.0 * _bump(angle, 1.10, 0.55)),  # latissimus dorsi
        (20.0 + 0 * z, 6.5 * _bump(angle, 2.40, 0.50) * rise(z, -35, 15)),  # pectoralis major
        (14.0, 3.5 * _bump(angle, 2.20, 0.30) * rise(z, 0, 30)),  # pectoralis minor
        (23.0, 10.5 * _bump(angle, 0.92, 0.42) * rise(z, -40, 10)),  # round the shoulder blade
        (30.0, 4.0 * _bump(angle, 0.30, 0.50) * rise(z, -70, -20)),  # trapezius
    )
    out = np.asarray(cavity - 10.5, np.float32)  # intercostal
    for distance, half in sheets:
        out = np.minimum(out, np.where(half > 0.2, np.abs(cavity - distance) - half, 50))
    for side in (-1, 1):
        out = np.minimum(out, rounded(x - side * 24, y - m.spine - 43, (24, 18), 2.5) + 0 * z)
        shoulder = ellipsoid(axes, (side * (m.half_width - 50), 40.0, 112.0), (50.0, 34.0, 70.0))
        out = np.minimum(out, np.maximum(shoulder, 16 - cavity))
    neck = ellipsoid(axes, (0.0, 30.0, 150.0), (150.0, 80.0, 80.0))
    return np.asarray(np.minimum(out, neck), np.float32)


def _diaphragm(m: Measures, axes: Axes) -> Field:
    """Domes of liver and spleen, from below."""
    width, depth = m.cavity
    right = ellipsoid(axes, (-0.52 * width, -2.0, m.dome - 78), (0.60 * width, 1.0 * depth, 78.0))
    left = ellipsoid(axes, (0.56 * width, 2.0, m.dome - 86), (0.52 * width, 0.94 * depth, 74.0))
    return union(right, left, 14)


def _apices(m: Measures, axes: Axes) -> Field:
    reach = 0.5 * m.cavity[0]
    left, right = (ellipsoid(axes, (side * reach, 6.0, 6.0), (74.0, 100.0, 92.0)) for side in (1, -1))
    return np.asarray(np.where(axes[0] > 6, np.minimum(left, right), -60.0), np.float32)
