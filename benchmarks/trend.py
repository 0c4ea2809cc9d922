"""What `benchmarks/load.py` sees each minute, and whether it has changed over the run."""

import csv
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats

TICK = os.sysconf("SC_CLK_TCK")
WARM_UP = 3  # minutes that are not judged
LEAST = 10  # minutes that a judgement needs
FLAT = 0.10  # of the middle value: a change over the whole run that does not matter
HEAD = (
    "                     cores used by   node CPU    C-STORE, ms         to SR, s                   RSS, MB\n"
    "min studies/min obj/s node others  s/study    p50    p99    max   p50  p99  max  refused receive work"
    "  open free GB load"
)


class Percentiles(NamedTuple):
    p50: float
    p95: float
    p99: float
    most: float


@dataclass(frozen=True)
class Minute:
    """A minute of the load. `node` is `prognode receive` and `prognode work`; others: all that is not of the test."""

    minute: int
    studies_per_minute: float  # SRs accepted by the PACS
    objects_per_second: float  # acknowledged
    node_seconds_per_study: float  # of CPU
    cores_of_others: float
    cores_of_node: float
    load_average: float
    store_ms: Percentiles  # C-STORE until its answer
    score_seconds: Percentiles  # last object acknowledged until the SR was accepted
    refused: int
    megabytes: dict[str, float]  # resident, by process
    open_items: int
    free_gigabytes: float

    def line(self) -> str:
        store, score = self.store_ms, self.score_seconds
        return (
            f"{self.minute:>3}{self.studies_per_minute:>12.0f}{self.objects_per_second:>6.0f}{self.cores_of_node:>5.2f}"
            f"{self.cores_of_others:>7.2f}{self.node_seconds_per_study:>9.3f}{store.p50:>7.1f}{store.p99:>7.0f}"
            f"{store.most:>7.0f}{score.p50:>6.1f}{score.p99:>5.1f}{score.most:>5.1f}{self.refused:>9}"
            f"{self.megabytes['receive']:>8.0f}{self.megabytes['work']:>5.0f}{self.open_items:>6}"
            f"{self.free_gigabytes:>8.1f}{self.load_average:>5.1f}"
        )


# -- what /proc says -------------------------------------------------------------------------------------------


def resident_bytes(pid: int) -> int:
    """Resident memory of a process; 0 when it has ended."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("VmRSS")), 0)


def cpu_seconds(pid: int, *, of_children: bool = True) -> float:
    """CPU of a process, and of its ended children; 0 when it has ended."""
    try:
        values = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(map(int, values[11 : 15 if of_children else 13])) / TICK


def machine_seconds() -> tuple[float, float]:
    """CPU of the whole machine since it started: busy, and all."""
    values = [int(value) / TICK for value in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return sum(values) - values[3] - values[4], sum(values)


# -- figures -----------------------------------------------------------------------------------------------------


def percentiles(values: Iterable[float]) -> Percentiles:
    found = list(values)
    return Percentiles(*map(float, np.percentile(found, (50, 95, 99, 100)))) if found else Percentiles(0, 0, 0, 0)


def words(values: Iterable[float]) -> str:
    found = list(values)
    each = percentiles(found)
    return f"p50 {each.p50:.1f}, p95 {each.p95:.1f}, p99 {each.p99:.1f}, max {each.most:.1f} (n {len(found)})"


def change(values: Sequence[float], beside: Sequence[float] | None = None) -> tuple[float, float, float]:
    """Change over the run as a share of the middle value: estimate and 95 % interval, by least squares.

    `beside`: what the values may depend on at each moment; its influence is taken out. Residuals of neighbouring
    minutes are not independent: the interval is widened by their correlation (effective number of minutes).
    """
    y = np.asarray(values, dtype=float)
    minutes = np.arange(len(y), dtype=float)
    columns = [np.ones(len(y)), minutes, *([] if beside is None else [np.asarray(beside, dtype=float)])]
    x = np.column_stack(columns)
    found, *_ = np.linalg.lstsq(x, y, rcond=None)
    left = y - x @ found
    free = len(y) - x.shape[1]
    spread = np.sqrt(left @ left / free * np.linalg.pinv(x.T @ x)[1, 1])
    together = float(left[1:] @ left[:-1] / max(left @ left, 1e-30))
    spread *= np.sqrt((1 + max(0.0, together)) / (1 - min(0.9, max(0.0, together))))
    scale = (len(y) - 1) / np.median(y)
    reach = spread * stats.t.ppf(0.975, free) * scale
    return float(found[1] * scale), float(found[1] * scale - reach), float(found[1] * scale + reach)


def verdict(low: float, high: float, *, only_growth: bool = False) -> str:
    """ "flat" when the whole interval lies within what does not matter, else what is known."""
    if high <= FLAT and (only_growth or low >= -FLAT):
        return "flat"
    return "not flat" if low > FLAT or (high < -FLAT and not only_growth) else "cannot be told"


def verdicts(minutes: Sequence[Minute]) -> None:
    """Print what has changed over the run."""
    judged = minutes[WARM_UP:]
    if len(judged) < LEAST:
        print(f"too short to say whether it is flat: {WARM_UP + LEAST} minutes at least")
        return
    others = [one.cores_of_others for one in judged]
    rows: list[tuple[str, list[float], list[float] | None, bool]] = [
        ("studies a minute, at the same use by others", [one.studies_per_minute for one in judged], others, False),
        ("CPU of the node per study", [one.node_seconds_per_study for one in judged], others, True),
        *((f"memory of {name}", [one.megabytes[name] for one in judged], None, True) for name in judged[0].megabytes),
    ]
    print(f"change from minute {judged[0].minute} to {judged[-1].minute} (95 % interval); flat: within {FLAT:.0%}")
    for what, values, beside, only_growth in rows:
        estimate, low, high = change(values, beside)
        print(
            f"  {what}: {estimate:+.1%} ({low:+.1%} to {high:+.1%}), middle value {np.median(values):.3g}:"
            f" {verdict(low, high, only_growth=only_growth)}"
        )


# -- records -------------------------------------------------------------------------------------------------------


def write(minutes: Sequence[Minute], path: Path) -> None:
    """One row a minute, as CSV."""
    with path.open("w", encoding="utf-8", newline="") as stream:
        rows = csv.writer(stream)
        for one in minutes:
            row: dict[str, float] = {}
            for field in fields(one):
                value = getattr(one, field.name)
                if isinstance(value, Percentiles):
                    row |= {f"{field.name}_{name}": figure for name, figure in value._asdict().items()}
                elif isinstance(value, dict):
                    row |= {f"{field.name}_{name}": figure for name, figure in value.items()}
                else:
                    row[field.name] = value
            if one is minutes[0]:
                rows.writerow(row)
            rows.writerow(round(figure, 4) for figure in row.values())


def plot(minutes: Sequence[Minute], path: Path) -> None:
    """Throughput beside what others used, cost, latency and memory over the minutes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    at = [one.minute for one in minutes]
    figure, axes = pyplot.subplots(4, 1, figsize=(7, 8), sharex=True, layout="constrained")
    panels = [
        ("studies a minute", {"": [one.studies_per_minute for one in minutes]}),
        (
            "cores; CPU s a study",
            {
                "used by others": [one.cores_of_others for one in minutes],
                "used by the node": [one.cores_of_node for one in minutes],
                "CPU s of the node per study": [one.node_seconds_per_study for one in minutes],
            },
        ),
        (
            "seconds",
            {
                "last object to SR accepted, p50": [one.score_seconds.p50 for one in minutes],
                "p99": [one.score_seconds.p99 for one in minutes],
                "C-STORE answered, p99": [one.store_ms.p99 / 1000 for one in minutes],
            },
        ),
        ("resident MB", {name: [one.megabytes[name] for one in minutes] for name in minutes[0].megabytes}),
    ]
    for axis, (label, lines) in zip(axes, panels, strict=True):
        for name, values in lines.items():
            axis.plot(at, values, label=name, marker=".", linewidth=1)
        axis.set_ylabel(label)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        if len(lines) > 1:
            axis.legend(fontsize=7)
    axes[-1].set_xlabel("minute")
    figure.savefig(path)
