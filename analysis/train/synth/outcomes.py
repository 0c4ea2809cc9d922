"""Synthetic patients as numbers: latent tumour traits, clinical values, OS and PFS with a known truth.

The planted effect is stated here once: a Weibull model of OS whose log hazard is a sum over latents, PFS as the
earlier of progression and death, and censoring that knows nothing of the patient. What an image can show of the
latents is drawn elsewhere; the oracle risk is what a perfect model would say. The modes differ in what bears on the
outcome (`effects`) and in the traps that the table holds: see `MODES`.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Mode = Literal["planted", "null", "volume-only", "leak", "duplicates", "site-shift"]
MODES: tuple[Mode, ...] = get_args(Mode)
HORIZONS = (12, 36)
DAYS_PER_MONTH = 30.4375
MISSING_PDL1 = 0.30

# Log hazard of OS per unit of each latent; ECOG counts points. Sex, age, albumin and roughness have none.
EFFECTS = {"volume": 0.45, "heterogeneity": 0.35, "ecog": 0.30, "nlr": 0.25, "pdl1": -0.25, "liver": 0.30}
# Progression takes 0.7 of the above and this.
PROGRESSION_SHARE, PROGRESSION_EFFECTS = 0.7, {"heterogeneity": 0.3}
VOLUME_ONLY = {"volume": 0.70}
SITE_EFFECT = 0.70  # log hazard between the sites of site-shift: same drugs, sicker patients
OS_SCALE, OS_SHAPE = 21.0, 1.1
PROGRESSION_SCALE, PROGRESSION_SHAPE = 32.0, 0.65  # a long tail: some hardly ever progress on these drugs


@dataclass(frozen=True)
class Patients:
    """A synthetic cohort; every array has shape (patients,). Latents are standard normal; times in months."""

    volume: Array  # log volume
    heterogeneity: Array
    roughness: Array
    nlr: Array
    pdl1: Array
    albumin: Array
    ecog: Array
    liver: Array
    age: Array
    female: NDArray[np.bool_]
    pdl1_missing: NDArray[np.bool_]
    site_b: NDArray[np.bool_]
    cycle_noise: Array
    log_hazard: Array
    log_progression: Array
    os_time: Array
    os_event: NDArray[np.bool_]
    pfs_time: Array
    pfs_event: NDArray[np.bool_]
    mode: Mode

    def __len__(self) -> int:
        return len(self.volume)


def draw(count: int, seed: int, mode: Mode = "planted") -> Patients:
    """Draw patients and their outcomes; the same seed gives the same patients in every mode."""
    rng = np.random.default_rng([seed, 1])
    z = rng.standard_normal((6, count))
    nlr = 0.3 * z[0] + math.sqrt(1 - 0.3**2) * z[3]
    albumin = -0.4 * nlr + math.sqrt(1 - 0.4**2) * z[5]
    nothing = np.zeros(count)
    patients = Patients(
        volume=z[0],
        heterogeneity=z[1],
        roughness=z[2],
        nlr=nlr,
        pdl1=z[4],
        albumin=albumin,
        ecog=rng.choice(3, count, p=[0.3, 0.5, 0.2]).astype(np.float64),
        liver=(rng.random(count) < 0.2).astype(np.float64),
        age=np.clip(np.round(rng.normal(66, 9, count)), 35, 90),
        female=rng.random(count) < 0.42,
        pdl1_missing=rng.random(count) < MISSING_PDL1,
        # A stream of their own: the modes must not differ in anything else.
        site_b=np.random.default_rng([seed, 4]).random(count) < 0.5,
        cycle_noise=np.random.default_rng([seed, 5]).normal(0, 0.05, count),
        log_hazard=nothing,
        log_progression=nothing,
        os_time=nothing,
        os_event=nothing.astype(bool),
        pfs_time=nothing,
        pfs_event=nothing.astype(bool),
        mode=mode,
    )
    return outcomes(patients, seed, mode)


def effects(mode: Mode) -> tuple[dict[str, float], dict[str, float]]:
    """What bears on death, and what bears on progression beyond its share of that: log hazard per unit."""
    if mode == "null":
        return {}, {}
    if mode == "volume-only":
        return VOLUME_ONLY, {}
    return (EFFECTS | {"site_b": SITE_EFFECT} if mode == "site-shift" else EFFECTS), PROGRESSION_EFFECTS


# So that the mean log hazard is near 0 in every mode.
_MEANS = {"ecog": 0.9, "liver": 0.2, "site_b": 0.5}


def outcomes(patients: Patients, seed: int, mode: Mode = "planted") -> Patients:
    """The same patients with outcomes drawn (again) from `seed`; in null mode nothing bears on them."""
    rng = np.random.default_rng([seed, 2])
    count = len(patients)
    on_death, on_progression = effects(mode)
    eta = _log_hazard(patients, on_death)
    progression = PROGRESSION_SHARE * eta + _log_hazard(patients, on_progression)
    death = OS_SCALE * (rng.standard_exponential(count) * np.exp(-eta)) ** (1 / OS_SHAPE)
    relapse = PROGRESSION_SCALE * (rng.standard_exponential(count) * np.exp(-progression)) ** (1 / PROGRESSION_SHAPE)
    first = np.minimum(death, relapse)
    censored = np.minimum(rng.uniform(12, 60, count), rng.exponential(150, count))
    return replace(
        patients,
        log_hazard=eta,
        log_progression=progression,
        os_time=np.minimum(death, censored),
        os_event=death <= censored,
        pfs_time=np.minimum(first, censored),
        pfs_event=first <= censored,
        mode=mode,
    )


def _log_hazard(patients: Patients, weights: dict[str, float]) -> Array:
    total = np.zeros(len(patients))
    for name, weight in weights.items():
        total = total + weight * (getattr(patients, name) - _MEANS.get(name, 0.0))
    return total


def oracle_risk(patients: Patients, months: float) -> dict[str, Array]:
    """True probability of the event by `months` given the latents, by endpoint."""
    death = (months / OS_SCALE) ** OS_SHAPE * np.exp(patients.log_hazard)
    relapse = (months / PROGRESSION_SCALE) ** PROGRESSION_SHAPE * np.exp(patients.log_progression)
    return {"OS": -np.expm1(-death), "PFS": -np.expm1(-(death + relapse))}


def volume_ml(patients: Patients) -> Array:
    """Lesion volume in millilitres, 1.5 to 110."""
    return np.asarray(np.clip(30.0 * np.exp(0.9 * patients.volume), 1.5, 110.0))


def clinical_rows(patients: Patients) -> list[dict[str, str]]:
    """Clinical values and outcomes as a table's text cells, a row per patient; outcomes in days."""
    nlr = np.exp(1.35 + 0.55 * patients.nlr)
    albumin = np.clip(39.0 + 4.5 * patients.albumin, 15, 58)
    pdl1 = np.array([100 * 0.5 * (1 + math.erf(z / math.sqrt(2))) for z in patients.pdl1])
    return [
        {
            **({"site": site(patients, i)} if patients.mode == "site-shift" else {}),
            "age": f"{patients.age[i]:.0f}",
            "sex": "F" if patients.female[i] else "M",
            "ecog": f"{patients.ecog[i]:.0f}",
            "nlr": f"{nlr[i]:.2f}",
            "albumin": f"{albumin[i]:.1f}",
            "pdl1": "" if patients.pdl1_missing[i] else f"{pdl1[i]:.0f}",
            "liver_metastases": "yes" if patients.liver[i] else "no",
            **({"cycles_received": f"{_cycles(patients, i):.0f}"} if patients.mode == "leak" else {}),
            "os_days": _days(patients.os_time[i]),
            "os_event": f"{patients.os_event[i]:d}",
            "pfs_days": _days(patients.pfs_time[i]),
            "pfs_event": f"{patients.pfs_event[i]:d}",
        }
        for i in range(len(patients))
    ]


def site(patients: Patients, index: int) -> str:
    """Where a patient was scanned and treated; the sites differ in site-shift mode alone."""
    return "B" if patients.site_b[index] else "A"


def _cycles(patients: Patients, index: int) -> float:
    """Three-week cycles until progression or death: known only afterwards, so no predictor at baseline."""
    noise = math.exp(float(patients.cycle_noise[index]))
    return max(1.0, round(float(patients.pfs_time[index]) * DAYS_PER_MONTH / 21 * noise))


def _days(months: float) -> str:
    return f"{max(1.0, math.ceil(months * DAYS_PER_MONTH)):.0f}"
