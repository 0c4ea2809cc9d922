"""The table of radiomic features: name, IBSI identity, LIFEx 7 column and unit (features.csv beside this module)."""

import csv
from dataclasses import dataclass
from importlib.resources import files

MASK_ONLY = "shape"  # this group depends on the mask: computed once, on the original image


@dataclass(frozen=True)
class Feature:
    """One row. `name` without its image type; `ibsi_id` and `ibsi_tag` empty where IBSI has no such feature.

    `ibsi_id` is the code of the IBSI manual (PS3.16 CID 7467 and others carry most of them), `ibsi_tag` the key of
    the IBSI reference tables, `lifex_name` the column of LIFEx 7 without code and unit.
    """

    name: str
    family: str
    ibsi_id: str
    ibsi_name: str
    ibsi_tag: str
    lifex_name: str
    unit: str

    @property
    def group(self) -> str:
        """shape, firstorder, histogram, glcm, ..."""
        return self.name.split("_", 1)[0]


def load_features() -> tuple[Feature, ...]:
    """All rows, in the order in which they are reported."""
    text = files("analysis").joinpath("features.csv").read_text(encoding="utf-8")
    return tuple(Feature(**row) for row in csv.DictReader(text.splitlines()))
