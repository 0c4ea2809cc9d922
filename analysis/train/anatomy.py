"""A chest drawn from formulas: the background of the synthetic CT. Makes training and demonstration data only.

Distances in mm in the patient's frame (x to the left, y to the back, z to the head; 0 near the carina). Every
structure is a signed distance (negative inside), painted with partial coverage at its edge, so the same patient
can be drawn on any matrix. Sizes are typical of an adult on contrast-enhanced chest CT.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from analysis.train.vessels import Segment, paint, tree

Plane = NDArray[np.floating]  # drawn in single precision; intermediate steps may be double
AIR, FAT, MUSCLE, LUNG, MARROW, CORTEX, BLOOD = -1000.0, -105.0, 52.0, -868.0, 190.0, 640.0, 165.0
CAVITY_Y = -8.0  # the cavity lies before the middle of the body: the back is thicker than the front


@dataclass(frozen=True)
class Grid:
    """Where the voxels lie: shape (slices, rows, columns), spacing mm (slice, row, column).

    The centre of the volume is the patient's origin; slices run from foot to head.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]

    def axis(self, index: int) -> NDArray[np.float32]:
        """Centres of the voxels along one axis, mm."""
        count, spacing = self.shape[index], self.spacing_mm[index]
        return ((np.arange(count) - (count - 1) / 2) * spacing).astype(np.float32)


@dataclass(frozen=True)
class Body:
    """One patient's build. Half-widths and thicknesses in mm."""

    half_width: float
    half_depth: float
    fat: float
    heart: float
    blood: float
    rib_phase: float
    vessels: tuple[Segment, ...]

    @property
    def cavity(self) -> tuple[float, float]:
        """Half-width and half-depth of the pleural cavity."""
        return self.half_width - self.fat - 22.0, self.half_depth - 0.55 * self.fat - 19.0


def body(rng: np.random.Generator) -> Body:
    """Draw a patient's build."""
    fat = float(rng.uniform(9, 20))
    return Body(
        half_width=float(rng.uniform(146, 158)) + 0.5 * (fat - 12),
        half_depth=float(rng.uniform(104, 113)) + 0.5 * (fat - 12),
        fat=fat,
        heart=float(rng.uniform(0.92, 1.08)),
        blood=BLOOD + float(rng.uniform(-25, 35)),
        rib_phase=float(rng.uniform(0, 24)),
        vessels=tuple(tree(rng)),
    )


def chest(build: Body, grid: Grid, rng: np.random.Generator) -> NDArray[np.float32]:
    """HU without noise, of the grid's shape."""
    hu = np.empty(grid.shape, np.float32)
    lung = np.empty(grid.shape, np.bool_)
    texture = _field(grid, 11.0, rng)
    y, x = np.meshgrid(grid.axis(1), grid.axis(2), indexing="ij")
    soft = max(grid.spacing_mm[1], 1.0)
    for index, z in enumerate(grid.axis(0)):
        plane, depth = _Slice(build, x, y, float(z), soft).draw(texture[index])
        hu[index], lung[index] = plane, depth < -2.0
    paint(hu, lung, build.vessels, grid)
    return hu


def lungs(build: Body, grid: Grid) -> NDArray[np.bool_]:
    """Where lung is, of the grid's shape."""
    y, x = np.meshgrid(grid.axis(1), grid.axis(2), indexing="ij")
    flat = np.zeros(x.shape, np.float32)
    return np.stack([_Slice(build, x, y, float(z), grid.spacing_mm[1]).draw(flat)[1] < -2.0 for z in grid.axis(0)])


def _field(grid: Grid, length_mm: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Smooth random field of unit SD with the given correlation length; the same in mm on every grid."""
    extent = [count * spacing for count, spacing in zip(grid.shape, grid.spacing_mm, strict=True)]
    coarse = rng.standard_normal([int(np.ceil(mm / (length_mm / 2))) + 6 for mm in (150.0, 380.0, 380.0)])
    smooth = ndimage.gaussian_filter(coarse, 1.6)
    smooth = (smooth / smooth.std()).astype(np.float32)
    steps = [
        np.linspace(2, 2 + mm / (length_mm / 2), count).clip(0, size - 1)
        for mm, count, size in zip(extent, grid.shape, smooth.shape, strict=True)
    ]
    out = smooth
    for axis, step in enumerate(steps):  # linear interpolation, one axis after another
        low = np.minimum(step.astype(int), out.shape[axis] - 2)
        weight = (step - low).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
        out = np.take(out, low, axis) * (1 - weight) + np.take(out, low + 1, axis) * weight
    return np.asarray(out, np.float32)


def ellipse(x: Plane, y: Plane, centre: tuple[float, float], half: tuple[float, float], power: float = 2.0) -> Plane:
    """Signed distance (mm, near the edge) to a superellipse."""
    u, v = np.abs(x - centre[0]) / half[0], np.abs(y - centre[1]) / half[1]
    radius = (u**power + v**power) ** (1 / power)
    return np.asarray((radius - 1) * min(half), np.float32)


def capsule(x: Plane, y: Plane, a: tuple[float, float], b: tuple[float, float], radius: float) -> Plane:
    """Signed distance to a thick line from a to b."""
    dx, dy = b[0] - a[0], b[1] - a[1]
    t = np.clip(((x - a[0]) * dx + (y - a[1]) * dy) / (dx * dx + dy * dy), 0, 1)
    return np.asarray(np.hypot(x - a[0] - t * dx, y - a[1] - t * dy) - radius, np.float32)


def union(first: Plane, second: Plane, blend: float = 6.0) -> Plane:
    """Smooth union of two signed distances."""
    h = np.clip(0.5 + 0.5 * (second - first) / blend, 0, 1)
    return np.asarray(second * (1 - h) + first * h - blend * h * (1 - h), np.float32)


class _Slice:
    """One axial slice in the making: `image` is HU, painted from the outside in."""

    def __init__(self, build: Body, x: Plane, y: Plane, z: float, soft: float) -> None:
        self.build, self.x, self.y, self.z, self.soft = build, x, y, z, soft
        self.image = np.full(x.shape, AIR, np.float32)
        self.front = -build.cavity[1] + CAVITY_Y
        self.spine_y = build.cavity[1] + CAVITY_Y - 26.0

    def draw(self, texture: Plane) -> tuple[Plane, Plane]:
        """HU of the slice, and the signed distance to the lungs."""
        wall = self._wall(texture)
        lungs = np.maximum(wall, -self._mediastinum())
        lungs = np.maximum(lungs, -self._diaphragm())
        lungs = np.maximum(lungs, self._apices())
        self._inside(wall)
        self._spine()
        parenchyma = LUNG + 0.42 * self.y + 11.0 * texture + self._fissures()
        self._paint(lungs, parenchyma)
        self._airways()
        return self.image, lungs

    def _paint(self, distance: Plane, value: Plane | float, weight: float = 1.0) -> None:
        cover = np.clip(0.5 - distance / self.soft, 0, 1) * weight
        self.image += cover * (value - self.image)

    def _disc(self, centre: tuple[float, float], radius: float, value: float) -> None:
        self._paint(ellipse(self.x, self.y, centre, (radius, radius)), value)

    def _wall(self, texture: Plane) -> Plane:
        """Table, skin, fat, muscle, ribs, sternum, scapulae, spine; returns the distance to the cavity."""
        b, x, y = self.build, self.x, self.y
        self._table()
        groove = 5.0 * np.exp(-((x / 20) ** 2)) * (y > 0)
        skin = ellipse(x, y, (0, 0), (b.half_width, b.half_depth), 2.35) + groove
        self._paint(skin, 15.0)
        self._paint(skin + 2.2, FAT + 5 * texture)
        thickness = b.fat * (0.75 + 0.35 * np.exp(-(((y + b.half_depth) / 60) ** 2)))
        muscle = skin + thickness + 2.2
        self._paint(muscle, MUSCLE + 4 * texture)
        narrow = (1 - 0.13 * max((self.z + 30) / 105, 0.0) ** 2) * (1 - 0.22 * self._towards_apex() ** 2)
        cavity = ellipse(x, y, (0, CAVITY_Y), (b.cavity[0] * narrow, b.cavity[1] * (narrow + 1) / 2), 2.15)
        self._septa(muscle, cavity)
        self._scapulae(cavity)
        self._ribs(cavity)
        self._sternum()
        return cavity

    def _table(self) -> None:
        top = self.build.half_depth + 5 - 0.0007 * self.x**2
        shell = np.abs(self.y - top) - 1.6
        self._paint(np.maximum(shell, np.abs(self.x) - 205), -350.0)
        self._paint(np.maximum(np.abs(self.y - top - 12) - 10, np.abs(self.x) - 200), -960.0)

    def _septa(self, muscle: Plane, cavity: Plane) -> None:
        """Fat between the muscle layers of the chest wall."""
        ratio = cavity / np.maximum(cavity - muscle, 1.0)
        layer = np.abs(ratio - 0.55 - 0.12 * np.sin(3 * np.arctan2(self.x, self.y))) * 18 - 1.3
        self._paint(np.maximum(layer, np.maximum(muscle + 2, 10 - cavity)), FAT, 0.75)

    def _ribs(self, cavity: Plane) -> None:
        angle = np.arctan2(np.abs(self.x), self.y)  # 0 at the spine, pi at the sternum
        turn = angle / np.pi
        phase = np.mod(self.z + self.build.rib_phase + 118 * turn**1.15, 24.0) - 12.0
        along = np.sqrt(((cavity - 6.0) / 4.2) ** 2 + (phase / 5.6) ** 2)
        rib = np.asarray((along - 1) * 4.2, np.float32)
        bony = np.maximum(rib, (turn - 0.80) * 200)
        self._paint(np.maximum(rib, (0.80 - turn) * 200), 110.0)  # cartilage
        self._paint(bony, CORTEX)
        self._paint(bony + 1.5, MARROW)

    def _sternum(self) -> None:
        front = self.front - 7.0
        plate = ellipse(self.x, self.y, (0, front), (19.0, 6.5), 2.6)
        self._paint(plate, CORTEX * 0.7)
        self._paint(plate + 1.6, MARROW * 0.7)

    def _scapulae(self, cavity: Plane) -> None:
        """Shoulder blades, following the wall of the cavity at a distance; muscle on both sides."""
        if self.z < -12:
            return
        angle = np.arctan2(np.abs(self.x), self.y - CAVITY_Y)
        reach = 0.18 + 0.0018 * (self.z + 12)
        blade = np.maximum(np.abs(cavity - 18.5) - 2.1, (np.abs(angle - 0.80) - reach) * 85)
        self._paint(np.maximum(np.abs(cavity - 18.5) - 8.0, (np.abs(angle - 0.80) - reach) * 85 - 5), MUSCLE)
        self._paint(blade, CORTEX * 0.9)
        self._paint(blade + 1.5, MARROW)

    def _spine(self) -> None:
        x, y, back = self.x, self.y, self.spine_y
        level = np.mod(self.z + 7 + self.build.rib_phase, 23.0)
        canal = (0.0, back + 25.0)
        if level > 6:  # pedicles, laminae and processes of this vertebra
            arch = ellipse(x, y, canal, (14.5, 13.5))
            spinous = capsule(x, y, (0, back + 36), (0, back + 52), 3.2)
            arch = np.minimum(arch, spinous)
            for side in (-1, 1):
                process = capsule(x, y, (side * 12, back + 24), (side * 33, back + 33), 4.6)
                arch = np.minimum(arch, process)
            self._paint(arch, CORTEX * 0.85)
            self._paint(arch + 2.2, MARROW)
        vertebra = union(ellipse(x, y, (0, back), (17.5, 15.5)), ellipse(x, y, (0, back + 6), (16, 11)), 3)
        if level < 5:  # the disc
            self._paint(vertebra, 85.0)
        else:
            self._paint(vertebra, CORTEX * 0.75)
            self._paint(vertebra + 2.0, MARROW + 12 * np.sin(x * 0.9) * np.cos(y * 0.8))
        self._paint(ellipse(x, y, canal, (10.5, 9.0)), -20.0)
        self._paint(ellipse(x, y, canal, (6.0, 5.0)), 32.0)

    def _heart(self) -> Plane:
        size = self.build.heart
        height = (self.z + 62) / (60 * size)
        shrink = np.sqrt(max(1 - height * height, 0.0)) if abs(height) < 1 else 0.0
        if shrink < 0.15:
            return np.full(self.x.shape, 1e3, np.float32)
        u, v = self._turned((20.0, -32.0), 0.62)
        return ellipse(u, v, (0, 0), (64 * size * shrink, 47 * size * shrink), 2.1)

    def _turned(self, centre: tuple[float, float], angle: float) -> tuple[Plane, Plane]:
        dx, dy = self.x - centre[0], self.y - centre[1]
        cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        return dx * cos + dy * sin, dy * cos - dx * sin

    def _mediastinum(self) -> Plane:
        x, y, z = self.x, self.y, self.z
        width = 22 + 8 * np.exp(-(((z - 42) / 20) ** 2))
        middle = ellipse(x, y, (2, -6), (width, self.build.cavity[1] + 2), 2.4)
        front = capsule(x, y, (0, self.front - 4), (0, -34), 4 + 5 * np.exp(-(((z - 62) / 14) ** 2)))
        upper = ellipse(x, y, (1, -4), (width + 3, 46))
        shape = union(np.maximum(middle, -y - 45), union(front, upper), 14)
        shape = union(shape, self._heart() - 2.0, 12)
        shape = union(shape, ellipse(x, y, (0, self.spine_y), (25, 26)), 10)
        for side in (-1, 1):
            girth = 21 * np.exp(-(((z - 2 - 4 * side) / 24) ** 2))
            if girth > 6:
                shape = union(shape, ellipse(x, y, (side * 34, 6), (girth, girth * 0.9)), 10)
        return union(shape, ellipse(x, y, (24, self.spine_y - 19), (15, 15)), 6)

    def _diaphragm(self) -> Plane:
        """Domes of liver and spleen, from below."""
        domes = np.full(self.x.shape, 1e3, np.float32)
        for centre, half, top in (((-66.0, -2.0), (66.0, 82.0), -44.0), ((70.0, 2.0), (56.0, 74.0), -56.0)):
            depth = (top - self.z) / 42.0
            if depth > 0:
                grow = np.sqrt(1 - (1 - min(depth, 1.0)) ** 2)
                domes = np.minimum(domes, ellipse(self.x, self.y, centre, (half[0] * grow, half[1] * grow), 2.2))
        return domes

    def _towards_apex(self) -> float:
        """0 up to the aortic arch, 1 where the lungs end."""
        return float(np.clip((self.z - 45) / 62, 0, 1))

    def _apices(self) -> Plane:
        grow = float(np.sqrt(1 - self._towards_apex() ** 2))
        if grow > 0.999:
            return np.full(self.x.shape, -1e3, np.float32)
        half = (78 * grow + 1, 92 * grow + 1)
        return np.minimum(*(ellipse(self.x, self.y, (side * 48, 4), half) for side in (-1, 1)))

    def _inside(self, cavity: Plane) -> None:
        """Mediastinal fat and what lies in it."""
        b, x, y, z = self.build, self.x, self.y, self.z
        self._paint(cavity, FAT + 12)
        self._paint(np.maximum(self._diaphragm(), cavity), 108.0)
        heart = self._heart()
        self._paint(heart, 98.0)
        self._chambers(heart)
        if z < 48:
            self._disc((22, self.spine_y - 19), 12.0, b.blood)  # descending aorta
        if 36 < z < 62:
            self._paint(capsule(x, y, (-10, -26), (20, self.spine_y - 20), 12.5), b.blood)  # arch
        elif -18 < z <= 40:
            self._disc((-12, -24), 15.5, b.blood)  # ascending aorta
        elif z >= 62:
            for centre, radius in (((-14.0, -16.0), 6.5), ((2.0, -8.0), 4.8), ((15.0, 0.0), 5.2)):
                self._disc(centre, radius, b.blood)
        if z > -12:
            self._disc((-31, -14), 8.5, b.blood + 45)  # superior vena cava
        self._pulmonary_arteries()
        self._disc((7, self.spine_y - 27), 7.0, 42.0)  # oesophagus
        self._disc((7, self.spine_y - 27), 1.6, -500.0)

    def _chambers(self, heart: Plane) -> None:
        b = self.build
        for centre, half, value in (
            ((40.0, -26.0), (27.0, 17.0), b.blood),
            ((2.0, -48.0), (30.0, 15.0), b.blood + 12),
            ((-16.0, -16.0), (19.0, 20.0), b.blood + 20),
            ((8.0, 8.0), (24.0, 13.0), b.blood),
        ):
            u, v = self._turned(centre, 0.62)
            self._paint(np.maximum(ellipse(u, v, (0, 0), half), heart + 7), value)

    def _pulmonary_arteries(self) -> None:
        x, y, z, blood = self.x, self.y, self.z, self.build.blood + 15
        if -6 < z < 22:
            self._disc((17, -30), 13.5, blood)
        if 0 < z < 18:
            self._paint(capsule(x, y, (15, -22), (-42, 2), 9.0), blood)
        if 8 < z < 26:
            self._paint(capsule(x, y, (18, -26), (42, 12), 9.5), blood)
        if -34 < z < 6:
            for side in (-1, 1):
                self._disc((side * 36, 12), 7.5, blood)

    def _airways(self) -> None:
        z = self.z
        if z > 16:
            self._tube((-1.0, 4.0), 8.6)
        elif z > -26:
            run = 16 - z
            for side in (-1, 1):
                self._tube((side * (4 + 0.85 * run), 6 + 0.22 * run), 6.6 - 0.06 * run)

    def _tube(self, centre: tuple[float, float], radius: float) -> None:
        self._disc(centre, radius + 1.8, 35.0)
        self._disc(centre, radius, -985.0)

    def _fissures(self) -> Plane:
        oblique = (self.z + 5 + 1.15 * self.y - 0.10 * np.abs(self.x)) / 1.53
        line = np.exp(-((oblique / max(self.soft, 1.2)) ** 2))
        return np.asarray(70 * line, np.float32)
