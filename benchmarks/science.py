"""Real patients without images: nested 5x5 cross-validation on OAK (atezolizumab arm) and LORIS (Chowell training).

    python -m benchmarks.science [--data DIR] [--short]

DIR holds oak.csv and loris_chowell_train.csv; without them there is nothing to do, and the exit code is 0. For every
horizon: the model that the cohort file asks for, Cox regression alone, the size of the tumour alone where it is known,
and the level to reach, measured before on one split of the same patients by a mean of logistic regression, forests
and Cox model with classifiers of their own for each horizon. `by split` is the SD of the AUC over the five repeats.

How the configuration was chosen, so that the figures can be read for what they are. It is the same for both cohorts:
the four learners of the level, equal weights, the penalty grids that the package always had. What was looked at with
these very patients, and so is not free of choice:
- At which horizons the classifiers learn (17 combinations of learners and horizons, six splits): all horizons, since
  one score serves them all. Mean of the four OS AUCs 0.701, against 0.697 at the first and 0.699 at the last alone;
  for LORIS OS 36 the last alone is better (0.766 against 0.756), for OAK OS 12 the first (0.674 against 0.670).
- Leaves of the classification forest: 10 patients (Malley 2012) instead of 15, after seeing both on three splits of
  an outer cross-validation alone (0.663 to 0.667 against 0.660 to 0.662, OAK OS 12).
- Tried there and left: 5 patients in a leaf, half of the columns at a split, 200 or 500 trees, extremely randomised
  trees; and for Cox regression logarithms of skewed predictors and columns for missing values, none of them better.
The splits of this table are partly the same and always of the same patients, so it does not undo that looking.
"""

import argparse
import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from analysis.train.data import cohort, suspicion
from analysis.train.data.cohort import Outcome
from analysis.train.judging import judge
from analysis.train.judging.predicted import predicted
from analysis.train.model import crossval, design
from analysis.train.model.design import SIZE, Block
from analysis.train.model.predictions import OutOfFold, Subset
from models.manifest import EndpointName

HERE = Path(__file__).resolve().parent / "cohorts"
DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "cohorts"
TABLES = {"oak": "oak.csv", "loris": "loris_chowell_train.csv"}
# AUC, IPA and hazard ratio to reach or beat, by cohort, endpoint and month.
LEVELS: dict[tuple[str, EndpointName, int], tuple[float, float | None, float | None]] = {
    ("oak", "OS", 12): (0.677, 0.10, 2.24),
    ("oak", "OS", 18): (0.654, 0.07, 2.00),
    ("oak", "PFS", 6): (0.604, None, 1.48),
    ("oak", "PFS", 12): (0.578, -0.006, 1.30),
    ("loris", "OS", 12): (0.697, 0.12, 2.40),
    ("loris", "OS", 36): (0.787, 0.17, 2.11),
    ("loris", "PFS", 12): (0.722, None, 1.97),
}
FIGURES = ("auc", "ipa", "calibration_slope", "observed_expected", "hazard_ratio")
HEADINGS = ("AUC", "IPA", "slope", "O/E", "HR")
Line = dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the two tables (default: %(default)s)")
    parser.add_argument("--short", action="store_true", help="one repeat instead of five")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: %(default)s)")
    options = parser.parse_args()
    absent = [table for table in TABLES.values() if not (options.data / table).is_file()]
    if absent:
        print(f"skipped: {options.data} holds no {' and no '.join(absent)}; give the folder with --data")
        return 0
    print(_row("", "", ["AUC by split", *HEADINGS]))
    for name in TABLES:
        show(name, figures(name, options.data, options.short, options.workers))
    return 0


def figures(name: str, data: Path, short: bool, workers: int) -> list[Line]:
    """Figures of every endpoint, horizon and model of one cohort, in the order of the table."""
    with tempfile.TemporaryDirectory(prefix="prognode-") as scratch:
        path = Path(shutil.copy(HERE / f"{name}.toml", scratch))
        (path.parent / TABLES[name]).symlink_to((data / TABLES[name]).resolve())
        loaded = cohort.load(path)
    settings = loaded.file.training.model_copy(update={"repeats": 1} if short else {})
    modalities = design.blocks(loaded)
    suspicion.check(loaded, modalities)
    beside = design.baselines(loaded, modalities)
    alone = [replace(block, learners=("cox",)) for block in modalities]
    lines = []
    for label, blocks, subset in _models(modalities, alone, beside):
        found = crossval.nested(blocks, loaded.outcomes, settings, loaded.file.cohort.seed, workers=workers)
        for endpoint, outcome in loaded.outcomes.items():
            lines += lines_of(label, found.repeats, subset, endpoint, outcome)
    return sorted(lines, key=lambda line: (line["endpoint"], line["months"]))


def _models(modalities: Any, alone: Any, beside: Any) -> list[tuple[str, list[Block], Subset]]:
    models = [("mean of learners", list(modalities), ("clinical",)), ("Cox alone", list(alone), ("clinical",))]
    return models + [("size alone", [block], (SIZE,)) for block in beside if block.modality == SIZE]


def lines_of(
    label: str, repeats: list[OutOfFold], subset: Subset, endpoint: EndpointName, outcome: Outcome
) -> list[Line]:
    """One line per horizon: each figure with its limits, and the SD of the AUC over repeats."""
    given = predicted(repeats, subset, endpoint, outcome)
    model = judge.model_figures(given)
    splits = [judge.model_figures(predicted([one], subset, endpoint, outcome))["horizons"] for one in repeats]
    return [
        {
            **model,
            **at,
            "label": label,
            "endpoint": endpoint,
            "months": at["horizon_months"],
            "by_split": float(np.std([split[column]["auc"] for split in splits], ddof=1)) if splits[1:] else None,
        }
        for column, at in enumerate(model["horizons"])
    ]


def show(name: str, lines: list[Line]) -> None:
    """The lines of one cohort, and after those of a horizon the level to reach."""
    for number, line in enumerate(lines):
        where = f"{name} {line['endpoint']} {line['months']}"
        spread = "" if line["by_split"] is None else f"{line['by_split']:.3f}"
        print(_row(where, line["label"], [spread, *(_with_limits(line, figure) for figure in FIGURES)]))
        following = lines[number + 1] if lines[number + 1 :] else None
        if following is None or following["months"] != line["months"] or following["endpoint"] != line["endpoint"]:
            auc, ipa, ratio = LEVELS[name, line["endpoint"], line["months"]]
            best = next(other for other in lines if _same(other, line) and other["label"] == "mean of learners")
            print(_row(where, "level to reach", ["", f"{auc:.3f}", _number(ipa), "", "", _number(ratio)]))
            print(_row(where, "above the level", ["", f"{best['auc'] - auc:+.3f}", *_above(best, ipa, ratio)]))


def _same(first: Line, second: Line) -> bool:
    return (first["endpoint"], first["months"]) == (second["endpoint"], second["months"])


def _above(line: Line, ipa: float | None, ratio: float | None) -> list[str]:
    return [
        "" if ipa is None else f"{line['ipa'] - ipa:+.3f}",
        "",
        "",
        "" if ratio is None else f"{line['hazard_ratio'] - ratio:+.2f}",
    ]


def _with_limits(line: Line, figure: str) -> str:
    if line[figure] is None:
        return "-"
    digits = 3 if figure in ("auc", "ipa") else 2
    return f"{line[figure]:.{digits}f} [{line[f'{figure}_lower']:.2f}, {line[f'{figure}_upper']:.2f}]"


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _row(where: str, label: str, cells: list[str]) -> str:
    return f"{where:<14}{label:<18}{cells[0]:>13}" + "".join(f"{cell:>22}" for cell in cells[1:])


if __name__ == "__main__":
    sys.exit(main())
