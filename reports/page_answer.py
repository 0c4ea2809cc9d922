"""The first page's answer: risk groups and risks in words, each with its figure on a line; then how far to trust it."""

from collections.abc import Sequence
from typing import Final

from analysis.contract import Endpoint, EndpointGroup, JobResult, RiskGroup, RiskScore, SubModel
from reports import words
from reports.drawing import Canvas
from reports.page_parts import BODY, FAINT, GAP, section
from reports.shapes import BAND, GROUND, LOWERS, QUIET, RAISES, RULE, TEXT, Box, Style

PER_ENDPOINT: Final = 2  # horizons of each endpoint on the page
MOST: Final = 4
_SHARES: Final = (0, 25, 50, 75, 100)


def shown(scores: Sequence[RiskScore]) -> list[RiskScore]:
    """The risks that the page has room for: the nearest and the furthest horizon of each endpoint."""
    by_endpoint = [[score for score in scores if score.endpoint == endpoint] for endpoint in Endpoint]
    room = PER_ENDPOINT if all(by_endpoint) else MOST
    return [score for mine in by_endpoint for score in (mine if len(mine) <= room else [*mine[: room - 1], mine[-1]])]


def answer(canvas: Canvas, box: Box, result: JobResult) -> int:
    """Groups, sentences and lines of each endpoint; returns the y below."""
    voice, y = canvas.voice, box.top
    scores = shown(result.scores)
    figures = max((canvas.length(_figures(canvas, score), FAINT) for score in scores), default=0)
    track = box.width - figures - 16
    for endpoint in Endpoint:
        mine = [score for score in scores if score.endpoint == endpoint]
        group = next((item for item in result.groups if item.endpoint == endpoint), None)
        if not mine and group is None:
            continue
        y = _group(canvas, box.left, y, box.width, endpoint, group)
        for score in mine:
            y = canvas.paragraph(
                box.left, y, box.width, words.natural_frequency(score, voice.code), BODY, 3 if len(scores) > 2 else 4
            )
            _track(canvas, box.left, y + 11, track, score)
            canvas.text(box.left + box.width, y + 2, _figures(canvas, score), FAINT, None, "right")
            y += 27
        y += 3
    if scores:
        canvas.text(box.left, y, voice.say("{number} %", number=0), FAINT)
        canvas.text(box.left + track // 2, y, voice.say("{number} %", number=50), FAINT, None, "middle")
        canvas.text(box.left + track, y, voice.say("{number} %", number=100), FAINT, None, "right")
        level = words.level(scores[0].interval_level, voice.code)
        canvas.text(box.right, y, voice.say("{level} interval", level=level), FAINT, figures + 10, "right")
        y += 21
    return y + GAP - 4


def _figures(canvas: Canvas, score: RiskScore) -> str:
    code = canvas.voice.code
    return f"{words.percent(score.event_probability, code)} ({words.interval(score, code)})"


def _group(canvas: Canvas, x: int, y: int, width: int, endpoint: Endpoint, item: EndpointGroup | None) -> int:
    """A shape, a word, and the endpoint's name; returns the y below."""
    code = canvas.voice.code
    name = f"{words.survival(endpoint, code)} ({endpoint})"
    if item is None:
        return section(canvas, x, y, width, words.capital(name))
    _group_mark(canvas, x + 10, y + 11, item.group)
    used = canvas.text(x + 28, y, words.group(item.group, code), Style(18, bold=True), width // 2)
    canvas.text(x + 28 + used + 10, y + 2, name, FAINT, width - used - 38)
    return y + 26


def _group_mark(canvas: Canvas, x: int, y: int, group: RiskGroup) -> None:
    if group == RiskGroup.HIGH:
        canvas.shape([(x, y - 9), (x + 9, y + 7), (x - 9, y + 7)], RAISES)
    elif group == RiskGroup.LOW:
        canvas.shape([(x, y + 9), (x + 9, y - 7), (x - 9, y - 7)], LOWERS)
    else:
        canvas.shape([(x, y - 9), (x + 9, y), (x, y + 9), (x - 9, y)], QUIET)


def _track(canvas: Canvas, x: int, y: int, width: int, score: RiskScore) -> None:
    canvas.fill(Box(x, y - 1, x + width, y + 1), RULE)
    for share in _SHARES:
        tick = min(x + width * share // 100, x + width - 1)
        canvas.fill(Box(tick, y - 4, tick + 1, y + 4), RULE)
    lower, upper = x + round(width * score.lower), x + round(width * score.upper)
    canvas.fill(Box(lower, y - 2, upper, y + 2), BAND)
    canvas.fill(Box(lower, y - 5, lower + 2, y + 5), BAND)
    canvas.fill(Box(upper - 2, y - 5, upper, y + 5), BAND)
    canvas.disc(x + width * score.event_probability, y, 7, GROUND)
    canvas.disc(x + width * score.event_probability, y, 5.5, TEXT)


def trust(canvas: Canvas, box: Box, result: JobResult, model: SubModel) -> None:
    """What the score did without, and how well this sub-model tells patients apart; as much as the box holds."""
    voice = canvas.voice
    y = section(canvas, box.left, box.top, box.width, voice.say("What it rests on"))
    lent = words.lent(result, voice.code)
    compared = [voice.say("Risk groups compare with the median of the training cohort.")] if result.groups else []
    for line in (words.sub_model(model, voice.code), *([lent] if lent else []), *compared):
        y = canvas.paragraph(box.left, y, box.width, line, BODY, 2)
    risks = [(score.endpoint, score.horizon_months) for score in shown(result.scores)]
    measured = [item for item in model.performance if (item.endpoint, item.horizon_months) in risks]
    if y + 30 + len(measured) * BODY.line > box.bottom + 4:
        canvas.text(box.left, y, voice.say("How well it ranks patients: see page 2."), BODY, box.width)
        return
    if measured:
        y = section(canvas, box.left, y + 6, box.width, voice.say("Pairs of patients ranked rightly (50 is chance)"))
    for item in measured:
        used = canvas.text(box.right, y, words.ranking(item, voice.code), BODY, box.width * 3 // 4, "right")
        room = box.width - used - 12
        names = (words.risk(item, voice.code), words.horizon(item, voice.code))
        canvas.text(box.left, y, next((n for n in names if canvas.length(n, FAINT) <= room), names[1]), FAINT, room)
        y += BODY.line
