"""Who reports, when, and as which revision: what a report needs beside the result and its evidence."""

import hashlib
import json
import re
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta, timezone, tzinfo
from enum import StrEnum

from pydicom.dataset import Dataset

_OFFSET = re.compile(r"([+-])(\d{2})([0-5]\d)")


class Change(StrEnum):
    """What made a revision out of its predecessor."""

    CONTOUR = "contour"
    IMAGES = "images"
    CHOICE = "choice"  # another ROI of the same object, or other images of the same ones at hand
    CLINICAL = "clinical"
    BUNDLE = "bundle"
    SOFTWARE = "software"


@dataclass(frozen=True)
class Changed:
    """One change; `names` are the clinical values that changed, never what they are."""

    kind: Change
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class DocumentReference:
    """Where an SR of ours lies: an item of Predecessor Documents Sequence (0040,A360)."""

    sop_class_uid: str
    sop_instance_uid: str
    series_instance_uid: str
    study_instance_uid: str


def reference_to(document: Dataset) -> DocumentReference:
    """The reference that the next revision's context carries."""
    return DocumentReference(
        sop_class_uid=str(document.SOPClassUID),
        sop_instance_uid=str(document.SOPInstanceUID),
        series_instance_uid=str(document.SeriesInstanceUID),
        study_instance_uid=str(document.StudyInstanceUID),
    )


@dataclass(frozen=True)
class ReportContext:
    """Everything that enters a report and is neither evidence nor result.

    Attributes
    ----------
    key : str
        Content key of the work item.
    created : datetime
        From the job record, never from a clock: a rebuild gives the same bytes.
    device_uid : str
        Stable per installation (`uids.device_uid`).
    previous_risk_sr, previous_radiomics_sr : DocumentReference or None
        The SRs of revision n-1, which this one replaces.
    changes : tuple of Changed
        What has changed since revision n-1.
    language : str
        Of every text; codes and their meanings stay English (`language.CODES`).
    series_number : int
        First of six: risk SR, pages, radiomics SR, SEG, PDF, presentation state.
    zone : tzinfo or None
        The site's zone, used where the evidence has no Timezone Offset From UTC; None: the host's.
    identity : str
        Digest of what of the patient's current identity is not what the images carry; '' where all of it is.
    """

    key: str
    created: datetime
    ae_title: str
    software_version: str
    device_uid: str
    site: str = ""
    revision: int = 1
    previous_risk_sr: DocumentReference | None = None
    previous_radiomics_sr: DocumentReference | None = None
    changes: tuple[Changed, ...] = ()
    language: str = "en"
    series_number: int = 9000
    zone: tzinfo | None = None
    identity: str = ""


def described(text: str, context: ReportContext) -> str:
    """A Content Description (0070,0081), which names the revision from the second on; LO, so short and English."""
    return text if context.revision < 2 else f"{text}, revision {context.revision}"


def fingerprint(context: ReportContext) -> str:
    """SHA-256 over every field: part of each UID, so that other content never meets an old UID.

    An identity that is the images' own is left out: UIDs made before there was another one stay as they are.
    """
    fields = asdict(context) | {"created": context.created.isoformat(), "zone": str(context.zone)}
    if not context.identity:
        del fields["identity"]
    return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()


def utc_offset(source: Dataset) -> str | None:
    """Timezone Offset From UTC (0008,0201) of the evidence, None where absent or malformed.

    >>> from pydicom import Dataset
    >>> source = Dataset()
    >>> source.TimezoneOffsetFromUTC = "+0530"
    >>> utc_offset(source)
    '+0530'
    """
    value = str(source.get("TimezoneOffsetFromUTC") or "").strip()
    return value if _OFFSET.fullmatch(value) else None


def local_time(context: ReportContext, source: Dataset) -> datetime:
    """`created` as wall-clock time of the evidence, without zone.

    The offset of the evidence wins (it is then copied to the output); else the site's zone. A naive `created` is
    local already.
    """
    offset = utc_offset(source)
    if offset is None:
        if context.created.tzinfo is None:
            return context.created
        return context.created.astimezone(context.zone).replace(tzinfo=None)
    sign = -1 if offset[0] == "-" else 1
    zone = timezone(sign * timedelta(hours=int(offset[1:3]), minutes=int(offset[3:])))
    created = context.created
    if created.tzinfo is None and context.zone is not None:
        created = created.replace(tzinfo=context.zone)
    return created.astimezone(zone).replace(tzinfo=None)


def local(context: ReportContext, source: Dataset) -> ReportContext:
    """The same context with `created` as `local_time`, for texts that show it."""
    return replace(context, created=local_time(context, source))
