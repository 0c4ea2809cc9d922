"""What the node knows of a stored instance without opening its file again: facts for planning, and no PHI.

Leaf of the node: standard library only. `headers.read` fills these; `store` keeps them as JSON; `plan` decides on them.
"""

import json
from dataclasses import dataclass, field
from typing import Any

CT = "1.2.840.10008.5.1.4.1.1.2"
ENHANCED_CT = "1.2.840.10008.5.1.4.1.1.2.1"
LEGACY_CONVERTED_CT = "1.2.840.10008.5.1.4.1.1.2.2"
RTSTRUCT = "1.2.840.10008.5.1.4.1.1.481.3"
SEG = "1.2.840.10008.5.1.4.1.1.66.4"
LABEL_MAP_SEG = "1.2.840.10008.5.1.4.1.1.66.7"

CT_CLASSES = frozenset({CT, ENHANCED_CT, LEGACY_CONVERTED_CT})
ROI_CLASSES = frozenset({RTSTRUCT, SEG, LABEL_MAP_SEG})


@dataclass(frozen=True)
class Roi:
    """One ROI of an RTSTRUCT or one segment of a SEG. `name` is free text of the sender: hostile, not PHI by intent."""

    number: int
    name: str
    interpreted_type: str = ""  # RT ROI Interpreted Type (3006,00A4), or the segment's property type code value
    contours: int = 0  # number of contours (RTSTRUCT) or frames (SEG)
    geometric_types: tuple[str, ...] = ()
    frame_of_reference_uid: str = ""
    # Images that it is drawn on and that no series-level list holds: places in `Instance.referenced_sop_instance_uids`,
    # and their SOP classes.
    unlisted_images: tuple[int, ...] = ()
    unlisted_sop_class_uids: tuple[str, ...] = ()


@dataclass(frozen=True)
class Geometry:
    """Image plane of a CT instance (PS3.3 C.7.6.2), per frame for multi-frame objects.

    `position` mm (x, y, z) of each frame, `orientation` six cosines, `pixel_spacing` mm (row, column).
    None where absent or not a finite number.
    """

    rows: int | None = None
    columns: int | None = None
    orientation: tuple[float, ...] | None = None
    pixel_spacing: tuple[float, float] | None = None
    positions: tuple[tuple[float, float, float], ...] = ()
    same_orientation: bool = True  # all frames share orientation and spacing


@dataclass(frozen=True)
class Instance:
    """A stored SOP instance. `digest` is the SHA-256 of the data set's bytes as received."""

    sop_instance_uid: str
    sop_class_uid: str
    series_instance_uid: str
    study_instance_uid: str
    transfer_syntax_uid: str
    digest: str
    modality: str = ""
    frame_of_reference_uid: str = ""
    image_type: tuple[str, ...] = ()
    geometry: Geometry = field(default_factory=Geometry)
    rescale: bool = False  # slope and intercept present and finite, slope not zero
    rescale_type: str = ""
    acquisition_number: str = ""
    patient: str = ""  # digest of Patient ID and its issuer, to compare and nothing more; "" where there is no ID
    own: bool = False  # made by this software: never an input (loop guard)
    rois: tuple[Roi, ...] = ()
    referenced_sop_instance_uids: tuple[str, ...] = ()
    referenced_series_instance_uids: tuple[str, ...] = ()
    referenced_sop_class_uids: tuple[str, ...] = ()  # without those that `rois` have
    references_from_contours: bool = False  # what is named need not be the whole series: see `references`

    @property
    def is_ct(self) -> bool:
        return self.sop_class_uid in CT_CLASSES

    @property
    def is_roi(self) -> bool:
        return self.sop_class_uid in ROI_CLASSES

    def to_json(self) -> str:
        # As asdict, which copies everything and takes four times as long.
        nested = {"geometry": vars(self.geometry), "rois": [vars(roi) for roi in self.rois]}
        return json.dumps(vars(self) | nested, separators=(",", ":"))

    @staticmethod
    def from_json(text: str) -> "Instance":
        """Read what `to_json` wrote; raises TypeError or KeyError on anything else."""
        data = json.loads(text)
        geometry = _with_tuples(data["geometry"])
        geometry["positions"] = tuple(tuple(p) for p in geometry["positions"])
        data["geometry"] = Geometry(**geometry)
        data["rois"] = tuple(Roi(**_with_tuples(roi)) for roi in data["rois"])
        return Instance(**_with_tuples(data))


def _with_tuples(values: dict[str, Any]) -> dict[str, Any]:
    for key, value in values.items():
        if type(value) is list:
            values[key] = tuple(value)
    return values
