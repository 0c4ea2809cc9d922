"""Last touches on every object: identity, times from the job record, equipment, character set."""

from datetime import datetime
from typing import Final, TypeVar

from pydicom.dataset import Dataset
from pydicom.tag import Tag
from pydicom.uid import UID
from pydicom.valuerep import DA, DT, TM

from config.identity import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME, MANUFACTURER, MODEL_NAME
from reports import legal
from reports.context import ReportContext, local_time, utc_offset
from reports.evidence import identity

CHARACTER_SET = "ISO_IR 192"
_UNPAIRED: Final = frozenset(
    {"CHEST", "THORAX", "ABDOMEN", "PELVIS", "HEAD", "NECK", "HEADNECK", "CHESTABDOMEN", "CHESTABDPELVIS", "WHOLEBODY"}
)

D = TypeVar("D", bound=Dataset)

_DATES = ("InstanceCreationDate", "SeriesDate", "ContentDate", "DateOfSecondaryCapture")
_TIMES = ("InstanceCreationTime", "SeriesTime", "ContentTime", "TimeOfSecondaryCapture")


def finish(dataset: D, source: Dataset, context: ReportContext) -> D:
    """Put identity, times and equipment into an object of ours; returns the same object.

    highdicom stamps creation and contribution times with the clock; they are replaced, so that a rebuild of the
    same job is identical byte for byte.
    """
    dataset.SpecificCharacterSet = CHARACTER_SET
    for element in identity(source):
        dataset[element.tag] = element
    now = local_time(context, source)
    dataset.SeriesDate, dataset.SeriesTime = DA(now.date()), TM(now.time())
    for keyword in _DATES:
        if keyword in dataset:
            setattr(dataset, keyword, DA(now.date()))
    for keyword in _TIMES:
        if keyword in dataset:
            setattr(dataset, keyword, TM(now.time()))
    _times_below(dataset, now)
    offset = utc_offset(source)
    if offset is not None:
        dataset.TimezoneOffsetFromUTC = offset
    dataset.Manufacturer = MANUFACTURER
    dataset.ManufacturerModelName = MODEL_NAME
    dataset.SoftwareVersions = context.software_version[:64]
    dataset.StationName = context.ae_title[:16]
    dataset.ContentQualification = "RESEARCH"
    if context.site:
        dataset.InstitutionName = context.site[:64]
    _file_meta(dataset)
    return dataset


def body_part(made: Dataset, source: Dataset) -> None:
    """Body Part Examined as in the source; a CT without one is a chest CT here. Laterality is type 2C beside it."""
    element = legal.read(source, Tag("BodyPartExamined"))
    given = legal.legal(element) if element is not None else None
    body_part = str(given.value) if given is not None and given.value else ""
    if not body_part and source.get("Modality") == "CT":
        body_part = "CHEST"
    if body_part:
        made.BodyPartExamined = body_part
    if body_part not in _UNPAIRED:
        side = str(source.get("Laterality") or "")
        made.Laterality = side if side in {"L", "R"} else ""


def _times_below(dataset: Dataset, now: datetime) -> None:
    for item in dataset.get("ContributingEquipmentSequence", []):
        if "ContributionDateTime" in item:
            item.ContributionDateTime = DT(now)


def _file_meta(dataset: Dataset) -> None:
    meta = dataset.file_meta
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    if "FileMetaInformationGroupLength" in meta:
        del meta.FileMetaInformationGroupLength  # recomputed on writing
