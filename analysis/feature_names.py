"""What a feature's name means to a reader: label and unit, from the name alone."""

import re
from functools import cache

from analysis.feature_table import Feature, load_features

_DEEP = re.compile(r"deep_level(\d+)_(mean|sd)_(\d+)")


def label_of(name: str) -> str:
    """A feature's IBSI name where there is one, else its own name in words.

    >>> label_of("original_shape_MeshVolume"), label_of("log-sigma-2-0-mm-3D_firstorder_Mean")
    ('Volume (mesh)', 'Mean (log-sigma-2-0-mm-3D)')
    >>> label_of("original_histogram_75Percentile"), label_of("deep_level2_sd_07")
    ('Histogram 75 percentile', 'Deep feature 7, level 2, SD')
    """
    deep = _DEEP.fullmatch(name)
    if deep:
        return f"Deep feature {int(deep[3])}, level {deep[1]}, {'SD' if deep[2] == 'sd' else deep[2]}"
    image = name.split("_", 1)[0]
    row = _row(name)
    if row is not None and row.ibsi_name:
        text = row.ibsi_name
    else:  # histogram_75Percentile -> 75 percentile
        words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name.split("_", 1)[-1].replace("_", " "))
        text = words[:1].upper() + words[1:].lower()
    return text if image == "original" or row is None else f"{text} ({image})"


def unit_of(name: str) -> str:
    """UCUM unit of a feature; "1" where it has none or is not ours."""
    row = _row(name)
    return row.unit if row is not None else "1"


@cache
def _table() -> dict[str, Feature]:
    return {row.name: row for row in load_features()}


def _row(name: str) -> Feature | None:
    return _table().get(name.split("_", 1)[-1])
