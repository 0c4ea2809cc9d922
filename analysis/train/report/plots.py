"""The report's pictures as inline SVG: the same bytes for the same figures, text as text, no identifier used twice.

Each picture is small and square-like, so that a page sets several side by side on a screen and one below the other on a
phone without shrinking the lettering. Colour never carries a meaning alone: line style or position says it too.
"""

import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

Line = dict[str, Any]
_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "prognode",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.labelcolor": "#222222",
    "text.color": "#222222",
    "xtick.color": "#333333",
    "ytick.color": "#333333",
    "legend.fontsize": 8,
}
_ROLES: dict[str, tuple[str, str, str, float]] = {
    "full": ("all inputs", "#0b3c74", "-", 2.0),
    "clinical": ("clinical only", "#a34700", "--", 1.5),
    "size": ("size only", "#4d4d4d", ":", 1.8),
    "random": ("random encoder", "#7b3294", "-.", 1.3),
}
_GROUPS: dict[str, tuple[str, str, str]] = {
    "HIGH": ("High", "#a50f15", "-"),
    "UNCERTAIN": ("Uncertain", "#595959", ":"),
    "LOW": ("Low", "#0b559f", "--"),
}
_GUIDE = {"color": "#777777", "linewidth": 0.9}
_MOST_TICKS = 7


@dataclass(frozen=True)
class RocLine:
    """One model in a ROC picture: its role (full, clinical, size, random), (false, true) positive rates, AUC."""

    role: str
    points: Sequence[Sequence[float]]
    auc: float | None


def roc(lines: Sequence[RocLine], name: str, label: str) -> str:
    """ROC curves of one endpoint and horizon. `name` is unique on the page, `label` is read aloud."""
    with mpl.rc_context(_STYLE):
        figure, axes = _square(len(lines))
        axes.plot([0, 1], [0, 1], linestyle=(0, (2, 3)), **_GUIDE)
        for line in lines:
            text, color, style, width = _ROLES[line.role]
            shown = text if line.auc is None else f"{text} {line.auc:.2f}"
            x, y = np.asarray(line.points, dtype=float).T
            axes.plot(x, y, color=color, linestyle=style, linewidth=width, label=shown)
        _unit_axes(axes, "1 − specificity", "Sensitivity")
        _legend(figure, axes, "AUC")
        return _svg(figure, name, label)


def calibration(points: Sequence[Line], name: str, label: str) -> str:
    """Observed against predicted risk, a point per group of patients with its 95 % interval."""
    with mpl.rc_context(_STYLE):
        figure, axes = _square()
        axes.plot([0, 1], [0, 1], linestyle=(0, (2, 3)), **_GUIDE)
        whole = [p for p in points if None not in (p.get("predicted"), p.get("observed"))]
        barred = [p for p in whole if None not in (p.get("lower"), p.get("upper"))]
        color = _ROLES["full"][1]
        axes.vlines(
            [p["predicted"] for p in barred],
            [p["lower"] for p in barred],
            [p["upper"] for p in barred],
            color=color,
            linewidth=1.3,
        )
        x, y = [p["predicted"] for p in whole], [p["observed"] for p in whole]
        axes.plot(x, y, color=color, linestyle="none", marker="o", markersize=4.5)
        axes.text(0.97, 0.05, "predicts too high", ha="right", fontsize=8, color="#4d4d4d")
        axes.text(0.03, 0.93, "predicts too low", ha="left", fontsize=8, color="#4d4d4d")
        _unit_axes(axes, "Predicted risk", "Observed risk")
        return _svg(figure, name, label)


def decision(curve: Line, name: str, label: str) -> str:
    """Net benefit of acting on the model, on everyone and on no one, by the risk at which one would act."""
    with mpl.rc_context(_STYLE):
        figure, axes = _square(3)
        threshold = _floats(curve["threshold"])
        model, everyone = _floats(curve["model"]), _floats(curve["all"])
        axes.axhline(0, linestyle=(0, (2, 3)), label="no one", **_GUIDE)
        axes.plot(threshold, everyone, color="#4d4d4d", linestyle=":", linewidth=1.6, label="everyone")
        axes.plot(threshold, model, color=_ROLES["full"][1], linewidth=2, label="by the model")
        top = float(np.nanmax(np.concatenate([model, everyone, [0.02]])))
        axes.set(xlabel="Risk at which one would act", ylabel="Net benefit", ylim=(-0.18 * top, 1.12 * top))
        axes.set_xlim(0, float(threshold.max()))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        _legend(figure, axes, "Act on")
        return _svg(figure, name, label)


def kaplan_meier(groups: Sequence[Line], outcome: str, name: str, label: str) -> str:
    """Survival by risk group with its band; below it, who is still at risk.

    Parameters
    ----------
    groups : sequence of mappings
        As in `metrics.json`: group, times (months), survival, lower, upper, at_risk.
    outcome : str
        What the vertical axis counts.
    """
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(3.95, 3.9))
        FigureCanvasSVG(figure)
        axes, table = figure.subplots(2, 1, sharex=True, height_ratios=(4.0, 0.34 * len(groups) + 0.25))
        figure.subplots_adjust(left=0.215, right=0.955, top=0.91, bottom=0.02, hspace=0.32)
        for group in groups:
            _survival(axes, group)
        axes.set(ylim=(0, 1.02), ylabel=outcome, xlabel="Months")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(
            handles,
            labels,
            loc="upper left",
            bbox_to_anchor=(0.1, 1),
            ncols=3,
            frameon=False,
            handlelength=2.4,
            columnspacing=1.4,
        )
        months = _thinned(sorted({int(month) for group in groups for month, _ in group.get("at_risk", ())}))
        _at_risk(table, groups, months)
        end = max(float(group["times"][-1]) for group in groups)
        last = max([end, *months])
        axes.set_xlim(-0.02 * last, last * 1.03)
        axes.set_xticks(months or [0, round(last)])
        axes.tick_params(labelbottom=True)
        return _svg(figure, name, label)


def _survival(axes: Any, group: Line) -> None:
    text, color, style = _GROUPS[group["group"]]
    times, survival = _floats(group["times"]), _floats(group["survival"])
    lower, upper = _floats(group.get("lower") or ()), _floats(group.get("upper") or ())
    if len(lower) == len(upper) == len(times):
        axes.fill_between(times, lower, upper, step="post", color=color, alpha=0.13, linewidth=0)
    axes.step(times, survival, where="post", color=color, linestyle=style, linewidth=1.8, label=text)


def _at_risk(table: Any, groups: Sequence[Line], months: Sequence[int]) -> None:
    """A row of numbers per group under the ticks they belong to."""
    table.set(ylim=(len(groups) - 0.4, -1.0))
    table.axis("off")
    table.text(-0.06, -0.9, "At risk", transform=table.get_yaxis_transform(), ha="right", va="center", fontsize=8)
    for row, group in enumerate(groups):
        text, color, _ = _GROUPS[group["group"]]
        table.text(
            -0.06, row, text, transform=table.get_yaxis_transform(), ha="right", va="center", fontsize=8, color=color
        )
        for month, count in group.get("at_risk", ()):
            if int(month) in months:
                table.text(month, row, f"{count}", ha="center", va="center", fontsize=8)


def _thinned(months: list[int]) -> list[int]:
    """At most seven ticks, the first among them, evenly taken."""
    step = -(-len(months) // _MOST_TICKS) if months else 1
    return months[::step]


def _square(legend_lines: int = 0) -> tuple[Any, Any]:
    """Axes of a fixed size in points with room for their lettering, and below them for a legend of so many lines."""
    below = 36.0 + (legend_lines + 1) * 11.5 * (legend_lines > 0)
    width, height = 209.0, 160.0 + below
    figure = Figure(figsize=(width / 72, height / 72))
    FigureCanvasSVG(figure)
    axes = figure.subplots()
    figure.subplots_adjust(left=51 / width, right=1 - 14 / width, top=1 - 7 / height, bottom=below / height)
    return figure, axes


def _legend(figure: Any, axes: Any, title: str) -> None:
    """Below the axes, where it hides nothing."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, title=title, title_fontsize=8, loc="lower left", bbox_to_anchor=(0.2, 0), frameon=False,
        handlelength=2.6, labelspacing=0.25, borderpad=0.1, alignment="left",
    )  # fmt: skip


def _unit_axes(axes: Any, across: str, up: str) -> None:
    axes.set(xlim=(-0.015, 1.03), ylim=(-0.015, 1.03), xlabel=across, ylabel=up)
    axes.set_xticks(np.arange(0, 1.01, 0.25))
    axes.set_yticks(np.arange(0, 1.01, 0.25))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, _: f"{value:.0%}")


def _floats(values: Sequence[float | None]) -> Any:
    return np.array([np.nan if value is None else value for value in values], dtype=float)


def _svg(figure: Any, name: str, label: str) -> str:
    """Inline SVG: no prologue, no fixed size, every identifier made unique by `name`, a label for a screen reader."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    head, body = text.split(">", 1)
    box = re.search(r'viewBox="[^"]+"', head)
    assert box is not None
    body = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', body)
    body = re.sub(r'(url\(|href=")#', rf"\1#{name}-", body)
    body = re.sub(r"<!--.*?-->\n?|<metadata>.*?</metadata>\n?|<style.*?</style>\n?", "", body, flags=re.DOTALL)
    body = re.sub(r"\n\s*", "\n", body)
    spoken = html.escape(label, quote=True)
    space = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return f'<svg {space} {box.group(0)} role="img" aria-label="{spoken}">{body.strip()}'
