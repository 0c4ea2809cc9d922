"""The report's sentences: what the figures mean, computed from the figures, and what they cannot tell.

Every function takes what `shown.showable` left and gives plain sentences, not HTML.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from analysis.train.judging.metrics import ENOUGH
from analysis.train.report import shown
from analysis.train.report.shown import Found, Line

MEANING = {"OS": "death of any cause", "PFS": "progression or death of any cause"}
ALIVE = {"OS": "Alive", "PFS": "Alive, no progression"}
_HAPPENED = {"OS": "died", "PFS": "had progressed or died"}
_PAIR = {
    "OS": "one who died within {months} months and one who lived longer",
    "PFS": "one who progressed or died within {months} months and one who did neither",
}
_WIDE = 0.15

# Song et al., medRxiv 2025.12.03.25341593, as its abstract gives them.
PAPER = "Song et al. 2025"
PAPER_REFERENCE = "Song et al., medRxiv 2025.12.03.25341593"
PAPER_AUC = {("OS", 12): 0.70, ("OS", 36): 0.84, ("PFS", 12): 0.65, ("PFS", 36): 0.73}
PAPER_CLINICAL_DEEP = {("OS", 12): 0.78}
PAPER_HAZARD_RATIO = {"OS": "2.10 (p = 0.005)", "PFS": "1.74 (p = 0.015)"}
PAPER_NOTE = (
    f"The rows marked “{PAPER}” are what {PAPER_REFERENCE}, reported for 94 patients with stage IV non-small cell "
    "lung cancer on regimens with an immune checkpoint inhibitor. They are context, not a claim: another cohort, and "
    "a method of which not everything is known. No difference between those rows and ours says that one is better."
)

GLOSSARY = tuple(
    (line.partition(": ")[0], line.partition(": ")[2])
    for line in """\
AUC: Of two patients, one with the event by the horizon and one without, how often the one with it has the higher \
predicted risk; 0.5 is a coin, 1 is perfect.
C (concordance): The same over the whole follow-up: how often the patient with the earlier event has the higher \
predicted risk. Uno’s form corrects for patients whose follow-up ended early.
IPA: How much smaller the squared error of the predicted risks is than when everyone is given the average; 0 is no \
gain, below 0 is worse than the average.
O/E: Events observed for each event predicted; 1 is ideal, above 1 the model predicts too few, below 1 too many.
Slope: Whether differences in predicted risk have the right size; 1 is ideal, below 1 they are too extreme.
HR (hazard ratio): How many times as fast events come in the high-risk group as in the low-risk group; 1: no difference.
95 % interval: The values that these data cannot rule out; the wider, the less is known.
Risk group: High or low against a cut-off taken from training data alone; uncertain where the interval of the \
patient’s score holds that cut-off.
Net benefit: Patients rightly acted on, less those wrongly acted on weighed by the risk at which one would act; useful \
only where it lies above both “everyone” and “no one”.
ICC: How well a feature’s value repeats when the contour is moved slightly and noise is added; 1 is perfect.
""".splitlines()
)


def summary(found: Found) -> Iterator[tuple[str, list[tuple[str, list[str]]]]]:
    """For each endpoint a heading and its paragraphs, each a lead and its sentences."""
    for endpoint in shown.endpoints(found):
        blocks = [
            (f"Within {months} months", _at_horizon(found, endpoint, months))
            for months in shown.horizons(found, endpoint)
        ]
        overall = _groups(found, endpoint) + _permuted(found, endpoint)
        blocks += [("Over the whole follow-up", overall)] if overall else []
        yield f"{endpoint}: {MEANING.get(endpoint, endpoint)}", blocks


def _at_horizon(found: Found, endpoint: str, months: int) -> list[str]:
    line = shown.at(shown.full(found, endpoint), months)
    if line.get("auc") is None:
        events, free = line.get("events", "unknown"), line.get("event_free", "unknown")
        return [
            f"{shown.TOO_FEW.capitalize()} to say anything ({events} with the event, {free} known to be free of it)."
        ]
    ranking = _ranking(endpoint, months, line)
    return [*_frequency(found, endpoint, months), ranking, *_comparisons(found, endpoint, months, line), *_level(line)]


def _frequency(found: Found, endpoint: str, months: int) -> list[str]:
    """Of 100 patients: overall as the groups weighted by their patients, then high and low."""
    groups = [g for drawn in found.get("kaplan_meier", ()) if drawn["endpoint"] == endpoint for g in drawn["groups"]]
    risks = {group["group"]: (_risk_at(group, months), group["patients"]) for group in groups if group["patients"]}
    if not risks or any(risk is None for risk, _ in risks.values()):
        return []
    overall = np.average([r for r, _ in risks.values()], weights=[n for _, n in risks.values()])
    text = f"Of 100 patients like these, about {100 * overall:.0f} {_HAPPENED[endpoint]} within {months} months"
    if {"LOW", "HIGH"} <= set(risks):
        text += f": {', '.join(_of_group(name, *risks[name]) for name in ('HIGH', 'LOW'))}"
    return [text + "."]


def _of_group(name: str, risk: float | None, patients: int) -> str:
    group = f"in the {name.lower()}-risk group"
    if patients < ENOUGH:
        return f"{shown.TOO_FEW} {group} ({patients}) to say"
    return f"{100 * (risk or 0.0):.0f} of 100 {group}"


def _risk_at(group: Line, months: int) -> float | None:
    """None where nobody was followed that long; where everybody had the event before, that is known all the same."""
    times = group["times"]
    if not times or (times[-1] < months and group["survival"][-1] != 0):
        return None
    survival = group["survival"][int(np.searchsorted(times, months, side="right")) - 1]
    return None if survival is None else 1 - float(survival)


def _ranking(endpoint: str, months: int, line: Line) -> str:
    auc, lower, upper = line["auc"], line.get("auc_lower"), line.get("auc_upper")
    between = "" if lower is None or upper is None else f" (95 % interval {100 * lower:.0f} to {100 * upper:.0f})"
    text = (
        f"Shown two patients, {_PAIR[endpoint].format(months=months)}, the model ranks them rightly {100 * auc:.0f} "
        f"times in 100{between}; a coin does so 50 times."
    )
    if lower is not None and lower <= 0.5:
        text += " The interval includes 50: these data do not show that the model ranks better than chance."
    return text


def _comparisons(found: Found, endpoint: str, months: int, line: Line) -> list[str]:
    rivals = (
        ("Tumour size alone", shown.size(found, endpoint)),
        ("Clinical variables alone", shown.clinical(found, endpoint)),
    )
    full = shown.full(found, endpoint)
    said = [
        compared_to(rival, "the model", "the model’s", shown.at(model, months), line)
        for rival, model in rivals
        if model is not None and model is not full and shown.at(model, months).get("auc") is not None
    ]
    deep = shown.at(shown.single(found, endpoint, "deep"), months)
    random = shown.at(shown.random_encoder(found, endpoint), months)
    if deep.get("auc") is not None and random.get("auc") is not None:
        rival = f"Deep features alone: {100 * deep['auc']:.0f} times in 100; from an encoder that was never trained"
        said.append(compared_to(rival, "training the encoder", "the trained one’s", random, deep))
    return said


def compared_to(rival: str, what: str, whose: str, other: Line, line: Line) -> str:
    """How a simpler ranking does beside the model; it wins a tie, and an interval that holds it is no proof."""
    times = f"{rival}: {100 * other['auc']:.0f} times in 100"
    if other["auc"] >= line["auc"]:
        return f"{times}, as good or better: {what} adds nothing here."
    lower = line.get("auc_lower")
    if lower is None or other["auc"] >= lower:
        return f"{times}; the difference lies within the uncertainty, so these data do not show that {what} adds to it."
    return f"{times}, which lies below {whose} interval."


def _level(line: Line) -> list[str]:
    sentences = []
    ratio, low, high = (line.get(f"observed_expected{end}") for end in ("", "_lower", "_upper"))
    if ratio is not None:
        text = f"For 100 events predicted, {100 * ratio:.0f} were observed"
        if low is not None and high is not None:
            text += f" (95 % interval {100 * low:.0f} to {100 * high:.0f})"
            too = "low" if low > 1 else "high" if high < 1 else None
            text += f": the predicted risks are too {too}" if too else ""
        sentences.append(text + ".")
    ipa, lower = line.get("ipa"), line.get("ipa_lower")
    if ipa is not None and ipa <= 0:
        sentences.append("Its predicted risks are no closer to the truth than giving everyone the average (IPA).")
    elif ipa is not None and lower is not None and lower <= 0:
        sentences.append("Whether its predicted risks are closer to the truth than the average is not certain (IPA).")
    return sentences


def _groups(found: Found, endpoint: str) -> list[str]:
    model = next((m for m in found.get("kaplan_meier", ()) if m["endpoint"] == endpoint), shown.full(found, endpoint))
    if not model or model.get("hazard_ratio") is None:
        return []
    where = "in the high-risk as in the low-risk group"
    if has_uncertain(model):
        where = "on the high side of the cut-off as on the low side, uncertain patients included"
    text = f"Events came {shown.interval(model, 'hazard_ratio')} times as fast {where}"
    text += f" ({shown.p_value(model['logrank_p'])}, log-rank)." if model.get("logrank_p") is not None else "."
    lower, upper = model.get("hazard_ratio_lower"), model.get("hazard_ratio_upper")
    if lower is not None and upper is not None and lower <= 1 <= upper:
        text += " The interval includes 1: these data do not show that the groups differ."
    return [text]


def has_uncertain(drawn: Mapping[str, Any]) -> bool:
    """Whether there are patients in neither group; a hazard ratio counts them on their side of the cut-off."""
    return any(group["group"] == "UNCERTAIN" and group["patients"] for group in drawn.get("groups", ()))


ENOUGH_PERMUTATIONS = 99  # with fewer, p cannot fall clearly below 0.05


def _permuted(found: Found, endpoint: str) -> list[str]:
    null = found.get("null") or {}
    full = shown.full(found, endpoint)
    for line in null.get("models", ()):
        if full and line["endpoint"] == endpoint and line["name"] == full["name"] and line.get("p") is not None:
            times = int(null.get("permutations") or 0)
            did = f"With the outcomes shuffled and all done again, {line.get('reached', 0)} of {times} runs did as well"
            if times < ENOUGH_PERMUTATIONS:
                return [f"{did}: too few runs for a verdict."]
            chance = ": chance explains it as well" if line["p"] >= 0.05 else ""
            return [f"{did} ({shown.p_value(line['p'])}){chance}."]
    return []


def limits(found: Found) -> list[str]:
    """What these figures cannot tell, for these figures."""
    cohort = found.get("cohort", {})
    events = ", ".join(f"{count} {name} events" for name, count in cohort.get("events", {}).items())
    said = []
    if found.get("synthetic"):
        said.append(
            "Every patient is synthetic: drawn images, invented outcomes with a planted effect. The figures show "
            "that the method finds what was planted. They say nothing about real patients."
        )
    said.append(
        "The score is prognostic, not predictive: it tells who is likely to do well or badly, not who benefits from an "
        "immune checkpoint inhibitor or any other treatment. It must not decide treatment."
    )
    if found.get("same_cohort"):
        said.append(
            "This is the cohort that the bundle was trained on: the figures flatter the model and validate nothing."
        )
    elif found.get("kind") == "external":
        said.append(
            "One external cohort is one hospital’s way of scanning, contouring and treating. Other hospitals can "
            "differ."
        )
    else:
        said.append(
            "This is internal validation only: the model was judged on patients of the cohort it was trained on, "
            "left out in turn. At another hospital ranking is usually worse and the predicted level of risk can be "
            "off by a third or more. Validate on your own patients before reading anything into a score."
        )
    said.append(
        f"The cohort has {cohort.get('patients', 'an unknown number of')} patients and {events or 'no events'}."
    )
    said += _widths(found)
    said.append(
        "Features depend on scanner, reconstruction and contour. Checks for values outside the range of development "
        "catch blunders such as wrong units; they do not reliably notice that a hospital differs a little in "
        "everything."
    )
    said.append(
        "Intervals come from resampling patients. They do not cover a change of scanner, of treatment or of time."
    )
    return said


def _widths(found: Found) -> Iterator[str]:
    for endpoint in shown.endpoints(found):
        for months in shown.horizons(found, endpoint):
            line = shown.at(shown.full(found, endpoint), months)
            lower, upper = line.get("auc_lower"), line.get("auc_upper")
            if line.get("auc") is None:
                yield f"{endpoint} by {months} months: {shown.TOO_FEW} for any figure."
            elif lower is not None and upper is not None and upper - lower > _WIDE:
                yield (
                    f"{endpoint} by {months} months: the interval of the AUC is {upper - lower:.2f} wide, so "
                    f"differences smaller than that cannot be seen; it rests on {line['events']} patients with the "
                    f"event and {line.get('event_free', 'an unknown number')} known to be free of it."
                )


def method(found: Found) -> list[str]:
    """How it was computed; only what `procedure` tells."""
    facts: dict[str, Any] = found.get("procedure", {})
    said = []
    if found.get("kind") == "external":
        said.append(
            "The installed bundle was applied as it is, nothing refitted: each patient by the combination of "
            "modalities that the patient has, risk groups by the cut-off that the bundle brought with it."
        )
    elif "outer_folds" in facts:
        said.append(
            f"Nested cross-validation: {facts['outer_folds']} outer folds, {facts.get('repeats', 1)} repeats, all of "
            "a patient’s data in one fold. Imputation, scaling, choice of features, penalties, recalibration and "
            "cut-offs are learned inside the training part of each fold."
        )
        kinds = sorted({kind for learners in facts.get("learners", {}).values() for kind in learners} or {"cox"})
        models = "a penalised Cox model" if kinds == ["cox"] else f"learners ({listed(kinds)})"
        said.append(
            f"For each modality {models}; the standardised scores of the modalities at hand are averaged "
            "with equal weights; one slope and one Breslow baseline turn the average into a risk, for each "
            "combination of modalities."
        )
    if "events_per_variable" in facts:
        said.append(
            f"At most one feature per {facts['events_per_variable']} events, none that correlates (Spearman) above "
            f"{facts.get('largest_correlation', 'the limit')} with one already chosen; lesion volume, where there is "
            "one, stays in."
        )
    auc = (
        "AUC is cumulative/dynamic with inverse-probability-of-censoring weights: a patient whose follow-up ended "
        "before the horizon counts neither as having the event nor as free of it."
    )
    folds = " Values are means over folds, since scores of different folds’ models are not on one scale."
    said.append(auc if found.get("kind") == "external" else auc + folds)
    if "bootstrap" in facts:
        said.append(f"Stored for the interval of a single patient’s risk: {facts['bootstrap']} bootstrap refits.")
    said.append(
        "Every figure of this page is in metrics.json; tripod_ai.md tells which reporting item is answered where."
    )
    return said


def listed(words: Sequence[str]) -> str:
    """Words as an enumeration.

    >>> listed(["a", "b", "c"]), listed(["a"])
    ('a, b and c', 'a')
    """
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
