"""`tripod_ai.md`: which item of TRIPOD+AI is answered where, and which is not, for this validation.

The items are those of Collins et al., BMJ 2024;385:e078378 (27 items, 52 with their parts), in words of our own. What
only a hospital can know (dates, centres, ethics, funding) is marked as the site's to answer, and never filled in.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analysis.train.report import shown
from analysis.train.report.shown import Found

ANSWERED, PARTLY, SITE, NOT, NOT_APPLICABLE = (
    "answered",
    "in part",
    "site must answer",
    "not answered",
    "not applicable",
)
Answer = tuple[str, str]
_STATES = (ANSWERED, PARTLY, SITE, NOT, NOT_APPLICABLE)
_SOURCE = (
    "Items of Collins et al., TRIPOD+AI, BMJ 2024;385:e078378, in our own words; the checklist itself is at "
    "tripod-statement.org. D: development, E: evaluation."
)


@dataclass(frozen=True)
class Item:
    """One item: number, title in our words, D (development), E (evaluation) or both; the answer from the figures."""

    number: str
    title: str
    scope: str
    answer: Callable[[Found], Answer]


def write(folder: Path, metrics: Mapping[str, Any]) -> None:
    """Write `tripod_ai.md` into `folder`; `metrics` as in `metrics.json`."""
    (folder / "tripod_ai.md").write_text(table(metrics), encoding="utf-8")


def table(metrics: Mapping[str, Any]) -> str:
    """The whole document as Markdown."""
    found = shown.showable(metrics)
    bundle = found.get("bundle") or {}
    rows = [(item, *_answer(item, found)) for item in ITEMS]
    counted = [f"{sum(state == name for _, state, _ in rows)} {name}" for name in _STATES]
    lines = [
        f"# TRIPOD+AI: {bundle.get('name', 'bundle')} {bundle.get('version', '')}".rstrip(),
        *(f"**{text}**" for text in shown.warnings_of(found)),
        _SOURCE,
        f"Of {len(rows)} parts of 27 items: {', '.join(counted)}. A part marked “{SITE}” cannot be known by software.",
        "\n".join(
            ["| item | what it asks | for | state | where |", "| --- | --- | --- | --- | --- |", *map(_line, rows)]
        ),
    ]
    return "\n\n".join(lines) + "\n"


def _line(row: tuple[Item, str, str]) -> str:
    item, state, where = row
    cells = (item.number, item.title, item.scope, state, where)
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _answer(item: Item, found: Found) -> Answer:
    external = found.get("kind") == "external"
    if (item.scope == "D" and external) or (item.scope == "E" and not external):
        return (
            NOT_APPLICABLE,
            "for the development, see the bundle's own table" if external else "nothing external here",
        )
    return item.answer(found)


def _objectives(found: Found) -> Answer:
    what = (
        "external validation of a bundle" if found.get("kind") == "external" else "development with internal validation"
    )
    return ANSWERED, f"report, title: {what}"


def _missing(found: Found) -> Answer:
    if found.get("kind") == "external":
        return ANSWERED, "report, “Who the patients are” (combinations that spoke, not scored); model card, “Inputs”"
    return ANSWERED, "model card, “Inputs”; learned inside folds: report, “How it was computed”"


def _sample(found: Found) -> Answer:
    return (
        PARTLY,
        "counts: report, “Who the patients are”; limits by width of intervals; no calculation was made beforehand",
    )


def _fairness(found: Found) -> Answer:
    lines = found.get("subgroups") or []
    if not lines:
        return NOT, "metrics.json holds no `subgroups`"
    return PARTLY, "report, “Subgroups”: performance by group is shown; nothing was done to even it out"


def _clusters(found: Found) -> Answer:
    if found.get("sites"):
        return ANSWERED, "report, “Sites”; metrics.json `sites`"
    return NOT, "no site column was given, so nothing is known of differences between hospitals"


def _performance(found: Found) -> Answer:
    short = [
        f"{endpoint} {months} months"
        for endpoint in shown.endpoints(found)
        for months in shown.horizons(found, endpoint)
        if shown.at(shown.full(found, endpoint), months).get("auc") is None
    ]
    where = "report, “All combinations side by side” and the plots; metrics.json `models`, `curves`, `kaplan_meier`"
    return (PARTLY, f"{where}; {shown.TOO_FEW}: {', '.join(short)}") if short else (ANSWERED, where)


def _data(found: Found) -> Answer:
    if found.get("synthetic"):
        return ANSWERED, "synthetic patients, made by `prognode cohort synth`; representative of nobody"
    return SITE, "where the data come from, why these, and whom they represent"


def _sharing(found: Found) -> Answer:
    licence = (found.get("cohort") or {}).get("licence")
    if licence:
        return PARTLY, f"licence as the cohort file states it: {licence}; where to get the data: site must answer"
    if found.get("synthetic"):
        return ANSWERED, "made again from its seed by `prognode cohort synth`: model card, “Cohort”"
    return SITE, "whether and where the data can be had"


def _characteristics(found: Found) -> Answer:
    return PARTLY, "counts, events, follow-up: report; ranges of predictors: manifest.json `distribution`; dates: site"


def _comparison(found: Found) -> Answer:
    if not found.get("range"):
        return NOT, "metrics.json holds no `range`"
    return PARTLY, "share of patients outside the range of development, by feature: report, “Who the patients are”"


def _difference(found: Found) -> Answer:
    if found.get("kind") == "external":
        return _comparison(found)
    return NOT_APPLICABLE, "the same cohort, left out in turn"


def _ethics(found: Found) -> Answer:
    if found.get("synthetic"):
        return NOT_APPLICABLE, "no person’s data"
    return SITE, "approval, and consent or its waiver"


_COMPUTED: dict[str, Callable[[Found], Answer]] = {
    "objectives": _objectives,
    "missing": _missing,
    "sample": _sample,
    "fairness": _fairness,
    "clusters": _clusters,
    "performance": _performance,
    "data": _data,
    "sharing": _sharing,
    "characteristics": _characteristics,
    "comparison": _comparison,
    "difference": _difference,
    "ethics": _ethics,
}

# Two lines an item: number, scope and title; then its state and where, or the function above that computes both.
_TEXT = """\
1 D;E Title names development or evaluation, population and outcome
  in part: report, title and summary; the population is as the cohort file says
2 D;E Structured abstract
  in part: report, “In plain words”; not in the form of TRIPOD+AI for Abstracts
3a D;E Health-care context, reason for the model, earlier models
  in part: model card, “Intended use”; one earlier model as context: report, “All combinations side by side”
3b D;E For whom, for which purpose and by whom it is used
  answered: model card, “Intended use”
3c D;E Known health inequalities
  site must answer: inequalities in the population that the cohort comes from
4 D;E Objectives; development or validation
  computed: objectives
5a D;E Sources of the data, why these, representativeness
  computed: data
5b D;E Dates of accrual and end of follow-up
  site must answer: dates; the cohort file holds durations only
6a D;E Setting, number and place of centres
  site must answer: centres and setting
6b D;E Eligibility
  site must answer: who was eligible; the row filter of the cohort file is part of the answer
6c D;E Treatments and how they were handled
  site must answer: treatments given; the model does not use them
7 D;E Preparation and checks of the data
  in part: model card, “Inputs” and “Method”; whether alike across groups of people: not examined
8a D;E Outcome, horizon, how and when assessed
  in part: model card, “What it predicts”; how and when progression was assessed: site
8b D;E Who assessed an outcome that needs judgement
  site must answer: progression is judged by people: who they were
8c D;E Blinding of outcome assessment
  site must answer: whether assessors knew the predictors
9a D Choice of candidate predictors
  answered: model card, “Inputs”: the cohort file’s allow-list and the extractor’s features
9b D;E Definition of every predictor, how and when measured
  in part: manifest.json `clinical`, `radiomic`, `deep`, `extraction`; when measured: site
9c D;E Who assessed predictors that need judgement
  site must answer: who drew the contours and with what guidance
10 D;E Size of the study and its justification
  computed: sample
11 D;E Missing data
  computed: missing
12a D Use of the data: partition for fitting and judging
  answered: report, “How it was computed”; metrics.json `procedure`
12b D Form and scaling of predictors
  answered: model card, “Method”; model.json columns
12c D Type of model, all steps of building, tuning, internal validation
  answered: model card, “Method”; report, “How it was computed”
12d D;E Heterogeneity between clusters: how examined
  computed: clusters
12e D;E Measures and plots of performance, comparison of models
  answered: report, “How it was computed” and “Words”
12f E Updating of the model after evaluation
  answered: none was done: report, “How it was computed”
12g E How predictions were computed
  answered: the installed bundle through the scoring code: report, “How it was computed”
13 D;E Class imbalance
  answered: no resampling or reweighting of classes anywhere; survival models use every patient
14 D;E Fairness: what was done and why
  computed: fairness
15 D Output, classes and thresholds
  answered: model card, “What it predicts”; manifest.json `sub_models` cut-offs
16 D;E Differences between development and evaluation data
  computed: difference
17 D;E Ethical approval and consent
  computed: ethics
18a D;E Funding
  site must answer: funding and role of funders
18b D;E Conflicts of interest
  site must answer: conflicts of interest
18c D;E Protocol
  site must answer: where the protocol is, or that there was none
18d D;E Registration
  site must answer: register and number, or that there was none
18e D;E Availability of data
  computed: sharing
18f D;E Availability of code
  in part: the training code is part of the installed package; where the site publishes its own: site
19 D;E Involvement of patients and the public
  site must answer: any involvement, or that there was none
20a D;E Flow of participants, with and without the outcome, follow-up
  answered: report, “Who the patients are”; metrics.json `cohort` and `horizons`
20b D;E Characteristics, treatments, missing values
  computed: characteristics
20c E Predictors compared with development
  computed: comparison
21 D;E Participants and events in each analysis
  answered: metrics.json: `patients` and `events` of every model and horizon
22 D The whole model, so that others can compute it
  answered: the bundle: model.json, bootstrap.json, encoder as ONNX, digests in manifest.json
23a D;E Performance with intervals, also in subgroups
  computed: performance
23b D;E Heterogeneity of performance between clusters
  computed: clusters
24 E Results of updating
  not applicable: no updating was done
25 D;E Interpretation, with fairness and earlier studies
  in part: report, “In plain words”; an interpretation by people: site
26 D;E Limitations
  answered: report, “What this cannot tell”; model card, “Limits”
27a D Poor or absent input when in use
  answered: model card, “Inputs” and “Limits”: fall-back to fewer modalities, flags, refusal with a reason
27b D What users must do and know
  in part: a person contours the lesion; the training that this needs: site
27c D;E Next steps; applicability elsewhere
  in part: report, “What this cannot tell”: validate on your own patients with `prognode evaluate`
"""


def _items(text: str) -> tuple[Item, ...]:
    lines = text.splitlines()
    found = []
    for head, answer in zip(lines[::2], lines[1::2], strict=True):
        number, scope, title = head.split(" ", 2)
        state, where = answer.strip().split(": ", 1)
        found.append(Item(number, title, scope, _COMPUTED[where] if state == "computed" else _always(state, where)))
    return tuple(found)


def _always(state: str, where: str) -> Callable[[Found], Answer]:
    assert state in _STATES, state
    return lambda found: (state, where)


ITEMS = _items(_TEXT)
