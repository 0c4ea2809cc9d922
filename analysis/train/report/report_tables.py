"""The report's tables: all combinations side by side, counts, subgroups, sites, features, the permutation null."""

import html
from collections.abc import Iterator, Sequence

from analysis.train.report import report_text, shown
from analysis.train.report.markup import Cell, Row, Table
from analysis.train.report.shown import Found, Line, interval, number, percent

_PER_HORIZON = ("AUC", "IPA", "O/E")
_OVERALL = ("Uno’s C", "Slope", "HR high v low")
_TAGS = {"baseline": "baseline", "oracle": "synthetic truth"}
_MOST_FEATURES = 15


def combinations(found: Found, endpoint: str) -> Table:
    """Every combination, the baselines and the paper's figures, for one endpoint."""
    months = shown.horizons(found, endpoint)
    heads = (
        [
            Cell("Model", down=2),
            *(Cell(f"within {m} months", span=len(_PER_HORIZON)) for m in months),
            Cell("whole follow-up", span=len(_OVERALL)),
        ],
        [Cell(name) for name in (*_PER_HORIZON * len(months), *_OVERALL)],
    )
    best = shown.full(found, endpoint)
    rows = [_model_row(model, months, strong=model is best) for model in shown.models_of(found, endpoint)]
    title = f"{endpoint}: {report_text.MEANING.get(endpoint, endpoint)}"
    notes = _notes(found, endpoint)
    return Table(title, heads, [*rows, *_paper_rows(found, endpoint, months)], notes)


def _notes(found: Found, endpoint: str) -> list[str]:
    kinds = {model.get("kind") for model in shown.models_of(found, endpoint)}
    notes = ["Below each figure its 95 % interval."]
    if "oracle" in kinds:
        notes.append(
            "Oracle: the true risk that the generator of the patients used; no model can be expected to do better."
        )
    if "baseline" in kinds:
        notes.append("Baseline: what a model must beat to be worth its trouble.")
    return [" ".join(notes)]


def _model_row(model: Line, months: Sequence[int], *, strong: bool) -> Row:
    kind = model.get("kind", "model")
    tag = f' <span class="tag">{_TAGS[kind]}</span>' if kind in _TAGS else ""
    cells = [cell for m in months for cell in _horizon_cells(shown.at(model, m))]
    cells += [_figure(model, key) for key in ("concordance_uno", "calibration_slope", "hazard_ratio")]
    return Row(Cell(shown.name_of(model), markup=tag), cells, "strong" if strong else kind)


def _horizon_cells(line: Line) -> list[Cell]:
    if line.get("auc") is None:
        return [Cell(shown.TOO_FEW, span=len(_PER_HORIZON), tone="few")]
    return [_figure(line, "auc"), _figure(line, "ipa", signed=True), _figure(line, "observed_expected")]


def _figure(line: Line, key: str, *, signed: bool = False) -> Cell:
    """The value, and below it its interval: narrow enough for nine columns."""
    value, _, limits = interval(line, key, signed=signed).partition(" (")
    below = f"<small>{html.escape(limits.rstrip(')'))}</small>" if limits else ""
    return Cell(value, markup=below)


def _paper_rows(found: Found, endpoint: str, months: Sequence[int]) -> Iterator[Row]:
    """The paper's figures at the horizons where ours has one to stand beside."""
    tag = ' <span class="tag">context</span>'
    rows = (
        (f"{report_text.PAPER}: ensemble", report_text.PAPER_AUC, report_text.PAPER_HAZARD_RATIO.get(endpoint)),
        (f"{report_text.PAPER}: clinical + deep", report_text.PAPER_CLINICAL_DEEP, None),
    )
    for name, aucs, ratio in rows:
        best = shown.full(found, endpoint)
        known = [aucs.get((endpoint, m)) if shown.at(best, m).get("auc") is not None else None for m in months]
        if any(value is not None for value in known) or ratio:
            cells = [
                cell for value in known for cell in (Cell(number(value)), Cell(shown.NOT_MADE), Cell(shown.NOT_MADE))
            ]
            cells += [Cell(shown.NOT_MADE), Cell(shown.NOT_MADE), Cell(ratio or shown.NOT_MADE)]
            yield Row(Cell(name, markup=tag), cells, "paper")


def counts(found: Found) -> Table:
    """How many patients are known at each horizon."""
    heads = (
        "Endpoint",
        "Horizon",
        "With the event",
        "Known to be free of it",
        "Follow-up ended before",
        "Patients",
        "",
    )
    rows = []
    for endpoint in shown.endpoints(found):
        for months in shown.horizons(found, endpoint):
            line = shown.at(shown.full(found, endpoint), months)
            values = [_count(line.get(key)) for key in ("events", "event_free", "censored_before", "patients")]
            verdict = "" if line.get("enough", True) else shown.TOO_FEW
            cells = [f"{months} months", *values, verdict]
            rows.append(Row(Cell(endpoint), [Cell(text) for text in cells]))
    return Table("Patients known at each horizon", [[Cell(head) for head in heads]], rows)


def _count(value: int | None) -> str:
    return shown.NOT_MADE if value is None else f"{value}"


def calibration(found: Found) -> Table | None:
    """What the calibration plots draw, with the number of patients behind each point."""
    heads = ("Endpoint", "Horizon", "Patients", "Predicted risk", "Observed risk (95 %)")
    rows = [
        Row(
            Cell(curve["endpoint"]),
            [
                Cell(f"{curve['horizon_months']} months"),
                Cell(_count(point.get("patients"))),
                Cell(percent(point.get("predicted"))),
                Cell(
                    f"{percent(point.get('observed'))} ({percent(point.get('lower'))} to {percent(point.get('upper'))})"
                ),
            ],
        )
        for curve in drawn(found)
        for point in curve.get("calibration") or ()
    ]
    return Table("Predicted and observed risk", [[Cell(head) for head in heads]], rows) if rows else None


def drawn(found: Found) -> list[Line]:
    """The curves of the fullest model, one per endpoint and horizon."""
    wanted = {endpoint: (shown.full(found, endpoint) or {}).get("name") for endpoint in shown.endpoints(found)}
    return [curve for curve in found.get("curves", ()) if curve["name"] == wanted.get(curve["endpoint"])]


def groups(lines: Sequence[Line], key: str, caption: str, head: str) -> Table | None:
    """Subgroups or sites: how the model does in each."""
    heads = (head, "Endpoint", "Horizon", "Patients", "Events", "AUC (95 %)", "O/E")
    rows = [
        Row(
            Cell(f"{line[key]}"),
            [
                Cell(line["endpoint"]),
                Cell(f"{line['horizon_months']} months"),
                Cell(_count(line.get("patients"))),
                Cell(_count(line.get("events"))),
                *_figures(line),
            ],
        )
        for line in lines
    ]
    return Table(caption, [[Cell(text) for text in heads]], rows) if rows else None


def _figures(line: Line) -> list[Cell]:
    if line.get("auc") is None:
        return [Cell(shown.TOO_FEW, span=2, tone="few")]
    return [Cell(interval(line, "auc")), Cell(number(line.get("observed_expected")))]


def features(found: Found, endpoint: str) -> Table | None:
    """The most influential features: direction, weight as a bar, how often chosen, how stable."""
    mine = [line for line in found.get("features", ()) if line["endpoint"] == endpoint]
    mine.sort(key=lambda line: (-(line.get("importance") or 0.0), line["name"]))
    top = mine[:_MOST_FEATURES]
    if not top:
        return None
    most = max((line.get("importance") or 0.0 for line in top), default=0.0) or 1.0
    heads = ("Feature", "Modality", "A higher value means", "Influence", "Chosen in folds", "Stability (ICC)")
    rows = [_feature_row(line, most) for line in top]
    rest = len(mine) - len(top)
    notes = [f"{rest} more with less influence: metrics.json."] if rest else []
    return Table(f"{endpoint}: most influential features", [[Cell(head) for head in heads]], rows, notes)


def _feature_row(line: Line, most: float) -> Row:
    importance, coefficient = line.get("importance"), line.get("coefficient")
    width = 100 * (importance or 0.0) / most
    bar = f'<span class="bar {_modality(line)}" style="width:{width:.0f}%"></span>'
    way = shown.NOT_MADE if not coefficient else "higher risk" if coefficient > 0 else "lower risk"
    label = line.get("label") or line["name"]
    tail = f" ({line['name']})" if line["name"] != label and line.get("modality") != "clinical" else ""
    cells = [
        Cell(line.get("modality") or ""),
        Cell(way),
        Cell(number(importance), markup=bar, tone="influence"),
        Cell(percent(line.get("selected_share"))),
        Cell(number(line.get("icc"))),
    ]
    return Row(Cell(f"{label}{tail}", tone="long"), cells)


def _modality(line: Line) -> str:
    known = ("clinical", "radiomic", "deep")
    return line["modality"] if line.get("modality") in known else "other"


def permutation(found: Found) -> Table | None:
    """The whole pipeline on shuffled outcomes, beside the real result."""
    null = found.get("null") or {}
    heads = ("Model", "Endpoint", "C of the model", "C on shuffled outcomes: mean", "95th percentile", "p")
    by_name = {(model["name"], model["endpoint"]): model for model in found.get("models", ())}
    rows = [
        Row(
            Cell(shown.name_of(line)),
            [
                Cell(line["endpoint"]),
                Cell(number(by_name.get((line["name"], line["endpoint"]), {}).get("concordance"))),
                Cell(number(line.get("concordance_mean"))),
                Cell(number(line.get("concordance_95"))),
                Cell(shown.p_value(line.get("p"))),
            ],
        )
        for line in null.get("models", ())
    ]
    caption = f"Permutation null, {null.get('permutations')} permutations of the whole pipeline"
    return Table(caption, [[Cell(head) for head in heads]], rows) if rows else None


def learners(found: Found) -> Table | None:
    """Learners of a modality beside each other, judged by the same inner loop; only where one has several."""
    lines = found.get("learners") or ()
    if len({line["learner"] for line in lines}) < 2:
        return None
    heads = ("Modality", "Endpoint", "Learner", "C in the inner folds", "Kept in outer folds")
    rows = [
        Row(
            Cell(line["modality"]),
            [
                Cell(line["endpoint"]),
                Cell(line["learner"]),
                Cell(number(line.get("concordance"))),
                Cell(percent(line.get("kept"))),
            ],
        )
        for line in lines
    ]
    return Table("Learners compared", [[Cell(head) for head in heads]], rows)


def external(found: Found) -> list[Table]:
    """What only an external cohort has: sub-models used, not scored, values outside the range of development."""
    used = [
        Row(Cell(" + ".join(line["modalities"])), [Cell(_count(line["patients"]))])
        for line in found.get("sub_models_used") or ()
    ]
    refused = [
        Row(Cell(line.get("sentence") or line["reason"]), [Cell(_count(line["patients"]))])
        for line in found.get("not_scored") or ()
    ]
    named = (
        ("Combination of modalities that spoke", "Combination", used),
        ("Not scored", "Reason", refused),
    )
    tables = [Table(caption, [[Cell(first), Cell("Patients")]], rows) for caption, first, rows in named if rows]
    outside = _outside(found)
    return [*tables, outside] if outside else tables


def _outside(found: Found) -> Table | None:
    """Development and this cohort beside each other, the features that differ most first."""
    heads = ("Feature", "Share of patients outside the range", "Median here", "Median in development")
    rows = [
        Row(
            Cell(line["name"], tone="long"),
            [
                Cell(percent(line.get("share"))),
                Cell(_short(line.get("median"))),
                Cell(_short(line.get("training_median"))),
            ],
        )
        for line in (found.get("range") or {}).get("features", ())
    ]
    caption = "Values outside the range of development (1st to 99th percentile)"
    return Table(caption, [[Cell(head) for head in heads]], rows) if rows else None


def _short(value: float | None) -> str:
    return shown.NOT_MADE if value is None else f"{value:.4g}"
