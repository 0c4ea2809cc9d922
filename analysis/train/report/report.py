"""`report.html`: what was measured, for a clinician. One file, no script, nothing fetched, the same bytes each time."""

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from analysis.train.report import markup, plots, report_tables, report_text, shown
from analysis.train.report.report_style import STYLE
from analysis.train.report.shown import Found, Line

_KINDS = {"cross-validation": "internal validation by nested cross-validation", "external": "external validation"}
_MOST_NAMES = 8
# Nothing may be fetched, whatever a name in a cohort file holds.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def write(folder: Path, metrics: Mapping[str, Any]) -> None:
    """Write `report.html` into `folder`.

    Parameters
    ----------
    metrics : mapping
        What `metrics.json` holds; any number may be None and any section absent.
    """
    (folder / "report.html").write_text(render(metrics), encoding="utf-8")


def render(metrics: Mapping[str, Any]) -> str:
    """The whole page; a horizon with too few patients shows no figure in it."""
    found = shown.showable(metrics)
    bundle = found.get("bundle") or {}
    title = f"{bundle.get('name', 'bundle')} {bundle.get('version', '')}".strip()
    sections = [part for part in _sections(found) if part[2]]
    links = "".join(f'<li><a href="#{name}">{html.escape(heading)}</a></li>' for name, heading, _ in sections)
    warnings = shown.warnings_of(found)
    foot = "SYNTHETIC - NOT FOR CLINICAL USE" if found.get("synthetic") else shown.RESEARCH_USE
    parts = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{html.escape(f'{title}: {warnings[0]}')}</title>",
        f"<style>{STYLE.replace('FOOT', foot)}</style>\n</head>\n<body>\n<header>",
        f"<h1>{html.escape(title)}: how good is it?</h1>",
        markup.paragraph(f"{_KINDS.get(str(found.get('kind')), 'validation').capitalize()} {_on(found)}", "quiet"),
        f'<div class="warning" role="note" aria-label="Warning">{"".join(map(markup.paragraph, warnings))}</div>',
        f'<nav aria-label="Contents"><ol>{links}</ol></nav>\n</header>\n<main>',
        *(markup.section(name, heading, content) for name, heading, content in sections),
        f"</main>\n<footer>{markup.paragraph('. '.join(warnings) + '.')}</footer>\n</body>\n</html>\n",
    ]
    return "\n".join(parts)


def _on(found: Found) -> str:
    cohort = found.get("cohort") or {}
    return (
        f"on {cohort.get('patients', 'an unknown number of')} patients ({cohort.get('name', 'cohort without a name')})."
    )


def _sections(found: Found) -> list[tuple[str, str, list[str]]]:
    """Identifier, heading and content, in reading order."""
    return [
        ("summary", "In plain words", _summary(found)),
        ("cohort", "Who the patients are", _cohort(found)),
        ("models", "All combinations side by side", _models(found)),
        ("roc", "Discrimination: ROC curves", _roc(found)),
        ("calibration", "Calibration: predicted against observed", _calibration(found)),
        ("groups", "Risk groups: Kaplan-Meier", _kaplan_meier(found)),
        ("decision", "Would acting on it help? Decision curves", _decision(found)),
        ("features", "What the score rests on", _features(found)),
        ("null", "Could it be chance? Shuffled outcomes", _null(found)),
        (
            "subgroups",
            "Subgroups",
            _table(report_tables.groups(found["subgroups"], "subgroup", "Subgroups", "Subgroup")),
        ),
        ("sites", "Sites", _table(report_tables.groups(found["sites"], "site", "Sites", "Site"))),
        ("limits", "What this cannot tell", [markup.bullets(report_text.limits(found))]),
        ("glossary", "Words", [markup.definitions(report_text.GLOSSARY, "glossary")]),
        ("method", "How it was computed", _method(found)),
    ]


def _table(table: markup.Table | None) -> list[str]:
    return [table.html()] if table else []


def _summary(found: Found) -> list[str]:
    tiles = [
        (f"{endpoint} within {months} months", _tile(found, endpoint, months))
        for endpoint in shown.endpoints(found)
        for months in shown.horizons(found, endpoint)
    ]
    parts = [markup.definitions(tiles, "tiles")] if tiles else []
    columns = []
    for heading, blocks in report_text.summary(found):
        said = [f'<p class="lead">{html.escape(lead)}</p>{markup.bullets(sentences)}' for lead, sentences in blocks]
        columns.append(f"<div><h3>{html.escape(heading)}</h3>{''.join(said)}</div>")
    if columns:
        note = "Comparisons set point estimates against the model’s interval; they are no formal test of a difference."
        parts += [f'<div class="endpoints">{"".join(columns)}</div>', markup.paragraph(note, "note")]
    return parts


def _tile(found: Found, endpoint: str, months: int) -> str:
    line = shown.at(shown.full(found, endpoint), months)
    if line.get("auc") is None:
        return shown.TOO_FEW
    value, _, limits = shown.interval(line, "auc").partition(" (")
    others = [
        f"{text} {shown.number(rival)}"
        for role, text in (("size", "size alone"), ("clinical", "clinical alone"))
        for other, model in shown.compared(found, endpoint)
        if other == role and (rival := shown.at(model, months).get("auc")) is not None
    ]
    return "\n".join([f"AUC {value}", *([f"95 % interval {limits.rstrip(')')}"] if limits else []), *others])


def _cohort(found: Found) -> list[str]:
    cohort, bundle = found.get("cohort") or {}, found.get("bundle") or {}
    events = ", ".join(f"{name} {count}" for name, count in cohort.get("events", {}).items())
    follow_up = cohort.get("median_follow_up_months")
    pairs = [
        ("Cohort", cohort.get("name")),
        ("Patients", cohort.get("patients")),
        ("Scored", cohort.get("scored")),
        ("Events", events or None),
        ("Median follow-up", f"{follow_up} months (reverse Kaplan-Meier)" if follow_up is not None else None),
        ("Seed", cohort.get("seed")),
        ("Digest of cohort", cohort.get("config_digest")),
        ("Digest of bundle", bundle.get("digest")),
        ("Licence of the data", cohort.get("licence") or "not stated"),
        ("Not in this cohort", _absent(found)),
        ("Outside the range", _share_outside(found)),
        ("Out of distribution", shown.percent(found["out_of_distribution"]) if _has_ood(found) else None),
    ]
    known = [(term, f"{value}") for term, value in pairs if value is not None]
    tables = [report_tables.counts(found), *report_tables.external(found)]
    return [markup.definitions(known, "facts"), *(table.html() for table in tables)]


def _absent(found: Found) -> str | None:
    names = list(found.get("predictors_absent") or ())
    more = [f"{len(names) - _MOST_NAMES} more"] if len(names) > _MOST_NAMES else []
    return report_text.listed([*names[:_MOST_NAMES], *more]) if names else None


def _has_ood(found: Found) -> bool:
    return isinstance(found.get("out_of_distribution"), int | float)


def _share_outside(found: Found) -> str | None:
    share = (found.get("range") or {}).get("patients_outside")
    return None if share is None else f"{shown.percent(share)} of patients with at least one value"


def _models(found: Found) -> list[str]:
    tables = [report_tables.combinations(found, endpoint) for endpoint in shown.endpoints(found)]
    learners = _table(report_tables.learners(found))
    note = markup.paragraph(report_text.PAPER_NOTE, "note")
    return [*(table.html() for table in tables), note, *learners] if tables else []


def _heading(line: Line) -> str:
    return f"{line['endpoint']} within {line['horizon_months']} months"


def _key(line: Line, kind: str) -> str:
    return f"{kind}-{line['endpoint']}-{line['horizon_months']}"


def _figures(pictures: list[str], note: str, wide: str = "") -> list[str]:
    if not pictures:
        return []
    return [f'<div class="figures{wide}">' + "\n".join(pictures) + "</div>", markup.paragraph(note, "note")]


def _roc(found: Found) -> list[str]:
    pictures = []
    for endpoint in shown.endpoints(found):
        for months in shown.horizons(found, endpoint):
            lines = _roc_lines(found, endpoint, months)
            if lines:
                where = {"endpoint": endpoint, "horizon_months": months}
                spoken = "; ".join(f"{line.role} AUC {shown.number(line.auc)}" for line in lines)
                label = f"ROC curves, {_heading(where)}: {spoken}"
                pictures.append(markup.figure(plots.roc(lines, _key(where, "roc"), label), _heading(where)))
    return _figures(pictures, "The dotted diagonal is a coin. The further a curve bends to the upper left, the better.")


def _roc_lines(found: Found, endpoint: str, months: int) -> list[plots.RocLine]:
    lines = []
    for role, model in shown.compared(found, endpoint):
        curve = _curve(found, model["name"], endpoint, months)
        if curve and curve.get("roc"):
            lines.append(plots.RocLine(role, curve["roc"], shown.at(model, months).get("auc")))
    return lines


def _curve(found: Found, name: str, endpoint: str, months: int) -> Line | None:
    wanted = (name, endpoint, months)
    return next((c for c in found["curves"] if (c["name"], c["endpoint"], c["horizon_months"]) == wanted), None)


def _calibration(found: Found) -> list[str]:
    pictures = []
    for curve in report_tables.drawn(found):
        points = curve.get("calibration") or []
        if points:
            count = sum(point.get("patients") or 0 for point in points)
            label = f"Observed against predicted risk, {_heading(curve)}, {count} patients in {len(points)} groups; "
            label += "the table that follows holds the numbers"
            picture = plots.calibration(points, _key(curve, "calibration"), label)
            pictures.append(markup.figure(picture, f"{_heading(curve)}, {count} patients"))
    note = "Each point: patients of similar predicted risk, with the 95 % interval; on the diagonal the two agree."
    numbers = report_tables.calibration(found)
    details = f"<details><summary>Numbers behind the plots</summary>{numbers.html()}</details>" if numbers else ""
    return [*_figures(pictures, note), details]


def _kaplan_meier(found: Found) -> list[str]:
    pictures = []
    for drawn in found.get("kaplan_meier") or ():
        groups = [group for group in drawn["groups"] if group.get("times") and group.get("patients")]
        if groups:
            endpoint = drawn["endpoint"]
            ratio = (
                "" if drawn.get("hazard_ratio") is None else f", HR high v low {shown.interval(drawn, 'hazard_ratio')}"
            )
            log_rank = "" if drawn.get("logrank_p") is None else f", log-rank {shown.p_value(drawn['logrank_p'])}"
            counts = ", ".join(
                f"{g['group'].lower()} {g['patients']} patients, {g.get('events')} events" for g in groups
            )
            label = f"Kaplan-Meier curves of {endpoint} by risk group: {counts}{ratio}{log_rank}"
            outcome = report_text.ALIVE.get(endpoint, endpoint)
            picture = plots.kaplan_meier(groups, outcome, f"km-{endpoint}", label)
            pictures.append(markup.figure(picture, f"{endpoint}{ratio}{log_rank}"))
    note = (
        "Bands are 95 % intervals; below each plot, how many patients are still followed. The cut-off comes from "
        "training data alone; “uncertain” are patients whose interval holds it."
    )
    if any(report_text.has_uncertain(drawn) for drawn in found.get("kaplan_meier") or ()):
        note += " The hazard ratio (HR) is that of the two sides of the cut-off, uncertain patients included."
    return _figures(pictures, note, " wide")


def _decision(found: Found) -> list[str]:
    pictures = []
    for curve in report_tables.drawn(found):
        gain = curve.get("decision") or {}
        if gain.get("threshold") and gain.get("model") and gain.get("all"):
            label = f"Decision curve, {_heading(curve)}: net benefit of the model, of acting on everyone and on no one"
            pictures.append(markup.figure(plots.decision(gain, _key(curve, "decision"), label), _heading(curve)))
    note = (
        "Where the model’s line lies above both others, deciding by its risk would do more good than harm for a "
        "decision taken at that risk. It says nothing about which treatment helps."
    )
    return _figures(pictures, note)


def _features(found: Found) -> list[str]:
    tables = [table for e in shown.endpoints(found) if (table := report_tables.features(found, e)) is not None]
    if not tables:
        return []
    note = (
        "Influence: how much the score varies between patients because of this feature (standard deviation of its "
        "part in the linear predictor). Chosen in folds: how often independent parts of the data chose it; below a "
        "half, another feature could stand in its place. An influence is not a cause."
    )
    stability = found.get("stability")
    kept = ""
    if stability:
        kept = (
            f"Of {stability.get('features')} image features, {stability.get('kept')} repeated well enough (ICC of at "
            f"least {stability.get('threshold')}) when contours were moved and noise was added "
            f"({stability.get('perturbations')} perturbations, {stability.get('patients')} patients); only those "
            "could be chosen."
        )
    return [*(table.html() for table in tables), markup.paragraph(note, "note"), markup.paragraph(kept) if kept else ""]


def _null(found: Found) -> list[str]:
    table = report_tables.permutation(found)
    if table is None:
        return []
    note = (
        "Outcomes were shuffled among patients and everything was done again: choice of features, fitting, "
        "recalibration, judging. What such runs reach is what chance reaches."
    )
    return [table.html(), markup.paragraph(note, "note")]


def _method(found: Found) -> list[str]:
    parts = [markup.bullets(report_text.method(found))]
    holds = found.get("interval_holds_oracle") or []
    if holds:
        shares = ", ".join(
            f"{line['endpoint']} within {line['horizon_months']} months {shown.percent(line.get('share'))}"
            for line in holds
        )
        parts.append(
            markup.paragraph(f"The interval of a training patient’s risk holds the true one this often: {shares}.")
        )
    return parts
