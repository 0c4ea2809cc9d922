"""The table and the truth of a synthetic cohort."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from analysis.train.synth import outcomes
from models.manifest import significant


def write_table(
    path: Path,
    patients: outcomes.Patients,
    names: Sequence[str],
    sources: Sequence[int],
    places: Sequence[tuple[str, str]],
) -> None:
    """Write patients.csv: a row per name, with the values of `patients[source]` and where its CT and contour lie."""
    rows = outcomes.clinical_rows(patients)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["patient_id", *rows[0], "ct", "roi"], lineterminator="\n")
        writer.writeheader()
        for name, source, (ct, roi) in zip(names, sources, places, strict=True):
            writer.writerow({"patient_id": name, **rows[source], "ct": ct, "roi": roi})


def write_truth(
    path: Path,
    patients: outcomes.Patients,
    names: Sequence[str],
    sources: Sequence[int],
    heading: Mapping[str, Any],
) -> None:
    """Write truth.json: what bears on the outcome, and every patient's latents and oracle risks."""
    on_death, on_progression = outcomes.effects(patients.mode)
    first: dict[int, str] = {}
    duplicates = {}
    for name, source in zip(names, sources, strict=True):
        if first.setdefault(source, name) != name:
            duplicates[name] = first[source]
    truth = {
        "warning": "SYNTHETIC - NOT FOR CLINICAL USE",
        **heading,
        "effects": on_death,
        "progression": {"share_of_effects": outcomes.PROGRESSION_SHARE, "effects": on_progression},
        "leaks": ["cycles_received"] if patients.mode == "leak" else [],
        "duplicates": duplicates,
        "patients": dict(zip(names, _each(patients, sources), strict=True)),
    }
    path.write_text(json.dumps(truth, indent=1) + "\n")


def _each(patients: outcomes.Patients, sources: Sequence[int]) -> list[dict[str, Any]]:
    risks = {months: outcomes.oracle_risk(patients, months) for months in outcomes.HORIZONS}
    volumes = outcomes.volume_ml(patients)
    return [
        {
            "log_hazard": significant(float(patients.log_hazard[index])),
            "volume_ml": significant(float(volumes[index])),
            "heterogeneity": significant(float(patients.heterogeneity[index])),
            "roughness": significant(float(patients.roughness[index])),
            **({"site": outcomes.site(patients, index)} if patients.mode == "site-shift" else {}),
            "risk": {
                f"{endpoint}_{months}": significant(float(values[index]))
                for months, by_endpoint in risks.items()
                for endpoint, values in by_endpoint.items()
            },
        }
        for index in sources
    ]
