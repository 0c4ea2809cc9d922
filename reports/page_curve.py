"""The curve of a risk over time: this patient's with its band, the training cohort's beside it, axes in people."""

from collections.abc import Sequence
from typing import Final

from analysis.contract import Curve, Endpoint, RiskScore
from reports import words
from reports.drawing import Canvas
from reports.page_parts import FAINT, SECTION, label
from reports.shapes import BAND, GROUND, QUIET, RULE, SHADE, SMALL, TEXT, Box, Point, Style

_TICKS: Final = (0, 25, 50, 75, 100)
_FIGURE: Final = Style(SMALL, bold=True)
_DASH: Final = (7.0, 5.0)


def curve(canvas: Canvas, box: Box, item: Curve, scores: Sequence[RiskScore]) -> None:
    """Title, legend, and the plot, in `box`. `scores` are this endpoint's: points of the curve, with their figures."""
    voice = canvas.voice
    if item.endpoint is Endpoint.OS:
        title = voice.say("Died, of 100 patients like this one")
    else:
        title = voice.say("Progressed or died, of 100 patients like this one")
    canvas.text(box.left, box.top, title, SECTION, box.width)
    _legend(canvas, box.left, box.top + 24, box.width, bool(item.population), scores[0].interval_level)
    plot = Box(box.left + 40, box.top + 58, box.right - 12, box.bottom - 44)
    last = item.months[-1]
    _axes(canvas, plot, last, [score.horizon_months for score in scores])
    at = _Scale(plot, last)
    band = [*at.points(item.months, item.upper), *reversed(at.points(item.months, item.lower))]
    canvas.shape(band, SHADE)
    for edge in (item.lower, item.upper):
        canvas.line(at.points(item.months, edge), 1, BAND)
    if item.population:
        canvas.line(at.points(item.months, item.population), 2, QUIET, _DASH)
    canvas.line(at.points(item.months, item.event_probability), 3, TEXT)
    for score in scores:
        beside = item.population[score.horizon_months : score.horizon_months + 1]
        _point(canvas, plot, at, score, [at.point(0, value)[1] for value in beside])


class _Scale:
    """From months and probabilities to pixels."""

    def __init__(self, plot: Box, last: int) -> None:
        self._plot, self._last = plot, last

    def point(self, month: float, probability: float) -> Point:
        plot = self._plot
        return plot.left + plot.width * month / self._last, plot.bottom - plot.height * probability

    def points(self, months: Sequence[int], values: Sequence[float]) -> list[Point]:
        return [self.point(month, value) for month, value in zip(months, values, strict=False)]


def _legend(canvas: Canvas, x: int, y: int, width: int, population: bool, level: float) -> None:
    """What each line is, by its look: nothing is told by colour alone."""
    voice = canvas.voice
    names = [voice.say("this patient"), voice.say("{level} interval", level=words.level(level, voice.code))]
    names += [voice.say("training cohort")] if population else []
    room = width - sum(canvas.length(name, FAINT) for name in names) - len(names) * 34
    gap = max(6, min(18, room // max(1, len(names) - 1)))
    for place, name in enumerate(names):
        middle = y + 10
        if place == 0:
            canvas.line([(x, middle), (x + 26, middle)], 3, TEXT)
        elif place == 1:
            canvas.fill(Box(x, middle - 6, x + 26, middle + 6), SHADE)
            canvas.fill(Box(x, middle - 6, x + 26, middle - 5), BAND)
            canvas.fill(Box(x, middle + 5, x + 26, middle + 6), BAND)
        else:
            canvas.line([(x, middle), (x + 26, middle)], 2, QUIET, _DASH)
        x += 34 + canvas.text(x + 34, y, name, FAINT) + gap


def _axes(canvas: Canvas, plot: Box, last: int, horizons: Sequence[int]) -> None:
    voice = canvas.voice
    for share in _TICKS:
        y = plot.bottom - plot.height * share // 100
        canvas.fill(Box(plot.left, y, plot.right, y + 1), RULE)
        canvas.text(plot.left - 8, y - 9, str(share), FAINT, None, "right")
    for month in ticks(last, horizons):
        x = round(plot.left + plot.width * month / last)
        canvas.fill(Box(x, plot.bottom, x + 1, plot.bottom + 5), QUIET)
        canvas.text(x, plot.bottom + 6, str(month), FAINT, None, "middle")
    canvas.fill(Box(plot.left, plot.top, plot.left + 1, plot.bottom), QUIET)
    canvas.fill(Box(plot.left, plot.bottom, plot.right, plot.bottom + 1), QUIET)
    axis = voice.say("months")
    canvas.text((plot.left + plot.right) // 2, plot.bottom + 25, axis, FAINT, plot.width, "middle")


def ticks(last: int, horizons: Sequence[int]) -> list[int]:
    """Months to mark: half-years where they fit, else years and longer; the horizons where nothing else stands near.

    >>> ticks(36, (12, 36)), ticks(60, (18, 60)), ticks(5, (5,))
    ([0, 6, 12, 18, 24, 30, 36], [0, 12, 18, 24, 36, 48, 60], [0, 5])
    """
    step = next((step for step in (6, 12, 24, 60, 120) if last / step <= 7), 240)
    even = [month for month in range(0, last + 1, step) if last - month >= last / 12 or month == last]
    asked = [month for month in horizons if all(abs(month - other) >= last / 12 for other in even)]
    found = sorted({*even, *asked})
    return found if found[-1] == last or last - found[-1] < last / 12 else [*found, last]


def _point(canvas: Canvas, plot: Box, at: _Scale, score: RiskScore, taken: Sequence[float]) -> None:
    """A point of the curve with its figure, above the band where there is room, else below it.

    `taken` are places (px) where another curve runs: a figure there would hide it.
    """
    x, y = at.point(score.horizon_months, score.event_probability)
    canvas.disc(x, y, 7, GROUND)
    canvas.disc(x, y, 5.5, TEXT)
    figure = words.share(score.event_probability)
    width = canvas.length(figure, _FIGURE)
    above = at.point(0, score.upper)[1] - 24
    free = above >= plot.top - 4 and not any(above - 4 <= y <= above + 24 for y in taken)
    below = min(at.point(0, score.lower)[1] + 8, plot.bottom - 24)
    left = round(min(max(x - width / 2, plot.left + 4), plot.right - width - 4))
    label(canvas, left, round(above if free else below), figure, _FIGURE)
