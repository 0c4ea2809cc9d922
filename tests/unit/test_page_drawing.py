"""Pictures and text of the page: right proportions, the whole tumour, a contour that is where the mask is."""

import subprocess
import sys

import numpy as np
import pytest

from reports.drawing import Canvas
from reports.shapes import BAND, CONTOUR, GROUND, LOWERS, PANEL, QUIET, RAISES, SHADE, TEXT, Box, Style, contrast


def outline(canvas: Canvas) -> np.ndarray:
    """Pixels in which the contour's colour prevails."""
    pixels = canvas.pixels().astype(int)
    return (pixels[..., 0] > 170) & (pixels[..., 2] < 0.7 * pixels[..., 0])


def drawn(view: np.ndarray, mask: np.ndarray | None, spacing: tuple[float, float], box: Box) -> Canvas:
    canvas = Canvas()
    canvas.picture(box, view, mask, spacing)
    return canvas


def test_a_circle_stays_a_circle_whatever_the_spacing() -> None:
    rows, columns = np.ogrid[:40, :200]
    mask = ((rows - 20) * 5.0) ** 2 + ((columns - 100) * 1.0) ** 2 <= 40**2  # 5 x 1 mm
    canvas = drawn(np.full((40, 200), 90, np.uint8), mask, (5.0, 1.0), Box(20, 100, 420, 500))
    where = np.argwhere(outline(canvas))
    height, width = where.max(axis=0) - where.min(axis=0)
    assert abs(height - width) <= 0.07 * width


@pytest.mark.parametrize("box", [Box(20, 100, 456, 420), Box(20, 100, 234, 230), Box(20, 100, 120, 500)])
@pytest.mark.parametrize("place", [(5, 5), (110, 100), (50, 60)])
def test_the_whole_tumour_is_in_the_picture(box: Box, place: tuple[int, int]) -> None:
    mask = np.zeros((120, 120), bool)
    mask[place[0] : place[0] + 8, place[1] : place[1] + 8] = True
    view = np.where(mask, 255, 60).astype(np.uint8)
    pixels = drawn(view, None, (1.0, 1.0), box).pixels()
    with_mask = drawn(view, mask, (1.0, 1.0), box)
    part = with_mask.pixels()[box.top : box.bottom, box.left : box.right]
    assert (part.min(axis=2) > 230).sum() >= 0.7 * 64, "the lesion's own pixels, at least as large as in the source"
    assert outline(with_mask).any()
    assert pixels.shape == (768, 1024, 3)


def test_nothing_is_drawn_outside_the_box() -> None:
    box = Box(100, 200, 300, 400)
    mask = np.ones((30, 90), bool)
    pixels = drawn(np.full((30, 90), 200, np.uint8), mask, (3.0, 1.0), box).pixels()
    pixels[box.top : box.bottom, box.left : box.right] = GROUND
    assert (pixels == GROUND).all()


def test_few_slices_stay_a_strip_and_are_not_blown_up() -> None:
    box = Box(0, 0, 214, 130)
    canvas = drawn(np.full((4, 400), 200, np.uint8), None, (3.0, 1.0), box)
    rows = np.flatnonzero((canvas.pixels()[:130, :214, 0] > 100).any(axis=1))
    assert len(rows) <= 15


def test_the_contour_surrounds_the_mask_and_leaves_it_visible() -> None:
    mask = np.zeros((100, 100), bool)
    mask[40:60, 40:60] = True
    canvas = drawn(np.full((100, 100), 128, np.uint8), mask, (1.0, 1.0), Box(0, 0, 400, 400))
    pixels = canvas.pixels()
    assert (pixels[170:230, 170:230] == 128).all()
    assert outline(canvas)[150:250, 150:165].any()


def test_an_empty_mask_draws_no_contour() -> None:
    canvas = drawn(np.full((50, 50), 128, np.uint8), np.zeros((50, 50), bool), (1.0, 1.0), Box(0, 0, 200, 200))
    assert not outline(canvas).any()


@pytest.mark.parametrize("colour", [TEXT, QUIET])
@pytest.mark.parametrize("ground", [GROUND, PANEL, (0, 0, 0), SHADE])
def test_text_keeps_its_contrast_on_every_ground(colour: tuple[int, int, int], ground: tuple[int, int, int]) -> None:
    assert contrast(colour, ground) >= 4.5


@pytest.mark.parametrize("colour", [BAND, RAISES, LOWERS, CONTOUR])
def test_marks_stand_out_from_the_ground_in_grey(colour: tuple[int, int, int]) -> None:
    assert contrast(colour, GROUND) >= 3.0  # WCAG 1.4.11, graphics


def test_a_text_that_does_not_fit_ends_in_an_ellipsis_within_its_width() -> None:
    canvas, style = Canvas(), Style()
    shown = canvas.fit("a text that is much too long for its place", 120, style)
    assert shown.endswith("…")
    assert canvas.length(shown, style) <= 120
    assert canvas.fit("short", 120, style) == "short"


def test_wrapped_lines_keep_all_words_or_say_that_they_do_not() -> None:
    canvas, style = Canvas(), Style()
    words = "one two three four five six seven eight nine ten"
    assert " ".join(canvas.wrap(words, 150, style, 10)) == words
    cut = canvas.wrap(words, 150, style, 2)
    assert len(cut) == 2
    assert cut[-1].endswith("…")
    assert all(canvas.length(line, style) <= 150 for line in cut)


def test_the_fonts_are_found_without_importing_matplotlib() -> None:
    code = "import sys; from reports.fonts import dejavu_folder; dejavu_folder(); print('matplotlib' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "False"
