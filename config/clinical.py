"""Settings of clinical values: the section [clinical]. Leaf of `config`; read through `config.settings`."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Clinical:
    """Clinical values: a table of the site (CSV) keyed by Patient ID, beside those in the store.

    `revise`: a value that comes after the score makes a new revision; off: it waits for an operator's rescore.
    """

    table: Path | None = None
    patient_id_column: str = "patient_id"
    date_column: str = "observed_on"  # of the table, where it has one
    codes: Path | None = None  # the site's own, beside clinical_codes.toml of the package
    used_days_after_ct: float = 7.0
    old_after_days: float = 90.0
    revise: bool = False
    fhir_wait_seconds: float = 60.0
    fhir_fresh_minutes: float = 60.0
