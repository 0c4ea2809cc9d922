"""What may be shown of `metrics.json`, and how a figure is written; for the report, the card and the checklist.

`showable` takes out every figure that must not be printed (a horizon with too few patients, NaN, infinity), so that no
later step has to think of it; what is left is a number or None.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

Found = Mapping[str, Any]
Line = dict[str, Any]

TOO_FEW = "too few patients"
NOT_MADE = "–"
RESEARCH_USE = "Research use only - not for diagnostic use"
COUNTS = ("horizon_months", "patients", "events", "event_free", "censored_before", "enough")
_SIZE_WORDS = ("size", "volume", "diameter", "burden")
_AS_USED = "as used"  # external validation: each patient by the combination that the patient has
_SPOKEN = {
    "size": "tumour size alone",
    "random encoder": "random encoder alone",
    _AS_USED: "as used: by what each patient has",
}


def showable(metrics: Found) -> dict[str, Any]:
    """A copy without figures that mean nothing: where `enough` is false only the counts stay, and no curve."""
    found: dict[str, Any] = _finite(dict(metrics))
    for model in found.get("models", ()):
        model["horizons"] = [_counts_alone(line) for line in model.get("horizons", ())]
    found["curves"] = [curve for curve in found.get("curves", ()) if _may_be_drawn(curve, found)]
    for key in ("subgroups", "sites"):
        found[key] = [_counts_alone(line, strings=True) for line in found.get(key, ())]
    return found


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _counts_alone(line: Line, *, strings: bool = False) -> Line:
    if line.get("enough", True):
        return line
    return {key: item if key in COUNTS or (strings and isinstance(item, str)) else None for key, item in line.items()}


def _may_be_drawn(curve: Line, found: Found) -> bool:
    """A curve whose model says too few; of a model that is not listed, what the fullest model says."""
    endpoint, months = curve["endpoint"], curve["horizon_months"]
    named = [m for m in models_of(found, endpoint) if m["name"] == curve["name"]]
    holder = named[0] if named else full(found, endpoint)
    line = horizon(holder, months)
    return line is None or bool(line.get("enough", True))


def endpoints(found: Found) -> list[str]:
    """Names of the endpoints in the order in which the models give them."""
    return list(dict.fromkeys(model["endpoint"] for model in found.get("models", ())))


def horizons(found: Found, endpoint: str) -> list[int]:
    """Months at which risk is judged, rising."""
    models = models_of(found, endpoint)
    return sorted({line["horizon_months"] for model in models for line in model.get("horizons", ())})


def models_of(found: Found, endpoint: str) -> list[Line]:
    """Models of one endpoint: combinations first, then baselines, then the oracle."""
    order = {"model": 0, "baseline": 1, "oracle": 2}
    mine = [model for model in found.get("models", ()) if model["endpoint"] == endpoint]
    return sorted(mine, key=lambda model: order.get(model.get("kind", "model"), 1))


def full(found: Found, endpoint: str) -> Line | None:
    """What the report is about: the model as it is used on other patients, else the combination of most modalities."""
    mine = [model for model in models_of(found, endpoint) if model.get("kind", "model") == "model"]
    used = [model for model in mine if model["name"] == _AS_USED]
    return max(used or mine, key=lambda model: len(model.get("modalities") or ()), default=None)


def single(found: Found, endpoint: str, modality: str) -> Line | None:
    """One modality alone."""
    mine = models_of(found, endpoint)
    return next((model for model in mine if list(model.get("modalities") or ()) == [modality]), None)


def clinical(found: Found, endpoint: str) -> Line | None:
    """Clinical variables alone."""
    return single(found, endpoint, "clinical")


def name_of(model: Found) -> str:
    """A model's name as a reader says it."""
    name: str = model["name"]
    return _SPOKEN.get(name, name)


def size(found: Found, endpoint: str) -> Line | None:
    """The baseline that ranks by tumour size alone."""
    mine = [model for model in models_of(found, endpoint) if model.get("kind") == "baseline"]
    return next((model for model in mine if any(word in model["name"].lower() for word in _SIZE_WORDS)), None)


def random_encoder(found: Found, endpoint: str) -> Line | None:
    """The baseline whose deep features come from an encoder that was never trained."""
    mine = [model for model in models_of(found, endpoint) if model.get("kind") == "baseline"]
    return next((model for model in mine if "random" in model["name"].lower()), None)


def compared(found: Found, endpoint: str) -> list[tuple[str, Line]]:
    """The models that every picture shows beside each other, by role; absent ones left out, none twice."""
    roles = (("full", full), ("clinical", clinical), ("size", size), ("random", random_encoder))
    listed: list[tuple[str, Line]] = []
    for role, choose in roles:
        model = choose(found, endpoint)
        if model is not None and all(model is not other for _, other in listed):
            listed.append((role, model))
    return listed


def horizon(model: Found | None, months: int) -> Line | None:
    """The model's line at a horizon."""
    lines: Sequence[Line] = model.get("horizons", ()) if model else ()
    return next((line for line in lines if line["horizon_months"] == months), None)


def at(model: Found | None, months: int) -> Line:
    """As `horizon`; an empty line where there is none."""
    return horizon(model, months) or {}


def number(value: float | None, digits: int = 2, *, signed: bool = False) -> str:
    """A figure with a fixed number of decimals.

    >>> number(0.756), number(None), number(0.1, signed=True)
    ('0.76', '–', '+0.10')
    """
    if value is None:
        return NOT_MADE
    return f"{value:{'+' if signed else ''}.{digits}f}"


def interval(line: Found, key: str, digits: int = 2, *, signed: bool = False) -> str:
    """`key` with its limits `key_lower` and `key_upper`.

    >>> interval({"auc": 0.7, "auc_lower": 0.61, "auc_upper": 0.78}, "auc")
    '0.70 (0.61 to 0.78)'
    """
    value, lower, upper = (line.get(name) for name in (key, f"{key}_lower", f"{key}_upper"))
    text = number(value, digits, signed=signed)
    if value is None or lower is None or upper is None:
        return text
    return f"{text} ({number(lower, digits)} to {number(upper, digits)})"


def p_value(value: float | None) -> str:
    """A p-value as journals print it.

    >>> p_value(0.0001), p_value(0.0312), p_value(0.42), p_value(None)
    ('p < 0.001', 'p = 0.031', 'p = 0.42', '–')
    """
    if value is None:
        return NOT_MADE
    if value < 0.001:
        return "p < 0.001"
    return f"p = {value:.{2 if value >= 0.1 else 3}f}"


def percent(share: float | None) -> str:
    """A share as a whole per cent.

    >>> percent(0.425), percent(None)
    ('42 %', '–')
    """
    return NOT_MADE if share is None else f"{share:.0%}".replace("%", " %")


def warnings_of(found: Found) -> list[str]:
    """What stands above everything else; never less than: research use only, preliminary, unverified."""
    synthetic = "SYNTHETIC - NOT FOR CLINICAL USE" if found.get("synthetic") else ""
    lines = [text for text in (synthetic, found.get("warning"), RESEARCH_USE, "Preliminary, unverified") if text]
    return [text for text in dict.fromkeys(lines) if not any(o != text and o.startswith(text) for o in lines)]
