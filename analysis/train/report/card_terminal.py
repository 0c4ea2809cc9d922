"""What `prognode train` prints at its end: the few figures that matter, in 100 columns, and where the rest is."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from analysis.train.report import shown
from analysis.train.report.shown import Found, Line, interval
from models.manifest import Manifest

WIDTH = 100
_HEAD = ("", "months", "AUC (95 %)", "IPA", "O/E")
_REST = (
    "Every combination of modalities, baselines, plots and limits: report.html. Every figure: metrics.json. In words: "
    "model_card.md. Reporting items: tripod_ai.md."
)


def summary(manifest: Manifest, found: Mapping[str, Any]) -> str:
    """The full combination beside clinical variables and size alone, per endpoint and horizon."""
    seen = shown.showable(found)
    events = ", ".join(f"{name} {count} events" for name, count in manifest.cohort.events.items())
    head = f"bundle {manifest.name} {manifest.version}: {manifest.cohort.patients} patients, {events}"
    warnings = shown.warnings_of({"synthetic": manifest.synthetic, "warning": manifest.warning})
    parts = [*textwrap.wrap(head, WIDTH), *warnings]
    for endpoint in shown.endpoints(seen):
        parts += ["", *_endpoint(seen, endpoint)]
    return "\n".join([*parts, "", *textwrap.wrap(_REST, WIDTH)])


def _endpoint(found: Found, endpoint: str) -> list[str]:
    listed = [model for role, model in shown.compared(found, endpoint) if role != "random"]
    rows: list[Sequence[str]] = [(endpoint, *_HEAD[1:])]
    for model in listed:
        for place, line in enumerate(model.get("horizons", ())):
            rows.append((shown.name_of(model) if place == 0 else "", *_cells(line)))
    lines = aligned(rows)
    full = shown.full(found, endpoint)
    if full is not None and full.get("hazard_ratio") is not None:
        log_rank = f", log-rank {shown.p_value(full['logrank_p'])}" if full.get("logrank_p") is not None else ""
        lines.append(f"  high v low risk: HR {interval(full, 'hazard_ratio')}{log_rank}")
    return lines


def _cells(line: Line) -> tuple[str, ...]:
    months = f"{line['horizon_months']}"
    if line.get("auc") is None:
        return months, shown.TOO_FEW, "", ""
    ipa = interval(line, "ipa", signed=True)
    return months, interval(line, "auc"), ipa, interval(line, "observed_expected")


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows with their columns under each other, two blanks between; a first column too long for the width is cut.

    >>> aligned([("a", "months"), ("long name", "12")])
    ['a          months', 'long name  12']
    """
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    widths[0] = min(widths[0], WIDTH - sum(widths[1:]) - 2 * (len(widths) - 1))
    cut = [(textwrap.shorten(row[0], widths[0], placeholder="…"), *row[1:]) for row in rows]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cut]
