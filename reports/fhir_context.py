"""What every FHIR resource of a result is made from: result, patient, context, and where the resources will lie."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, tzinfo
from typing import Final

from analysis.contract import Endpoint, JobResult, Outcome
from reports import particulars, words
from reports.fhir_types import (
    OWN,
    Json,
    date,
    dicom_identifier,
    instant,
    logical_reference,
    plain_coding,
    resource_uuid,
    uri_identifier,
)
from reports.hl7_person import Person
from reports.language import ENGLISH, speaker
from reports.refusal import Refusal, refusal_of

PRELIMINARY: Final = "preliminary"
RESEARCH_USE: Final = "RESEARCH_USE"  # the tag that every resource of ours has
TERMS: Final = "http://terminology.hl7.org/CodeSystem"


@dataclass(frozen=True)
class ReplacedReport:
    """The report of an earlier revision, by its identifier (`urn:uuid:...`)."""

    identifier: str
    revision: int


@dataclass(frozen=True)
class FhirContext:
    """Everything that enters the resources and is neither result nor patient.

    Attributes
    ----------
    key : str
        Content key of the work item.
    created : datetime
        With its zone; from the job record, never from a clock.
    contour : str
        SOP Instance UID of the contour object, '' where there was none.
    zone : tzinfo or None
        The site's; None: the host's.
    """

    key: str
    created: datetime
    study_instance_uid: str
    ct_series_instance_uid: str
    contour: str
    software_version: str
    device_uid: str
    revision: int = 1
    replaced: ReplacedReport | None = None
    language: str = ENGLISH
    zone: tzinfo | None = None


@dataclass(frozen=True)
class Place:
    """Where the resources will lie, so that they can refer to each other.

    Attributes
    ----------
    subject : dict
        Reference to the Patient.
    references : mapping
        `device`, `report`, `risk` and the names of the observations -> reference.
    patient, device : dict or None
        Contained in each resource that refers to it (`#patient`, `#device`).
    """

    subject: Json
    references: Mapping[str, str]
    patient: Json | None = None
    device: Json | None = None


def names_of(result: JobResult) -> tuple[str, ...]:
    """Names of the observations that a result has."""
    if result.outcome is not Outcome.SCORED:
        return ("outcome",)
    having = {score.endpoint for score in result.scores} | {group.endpoint for group in result.groups}
    return tuple(str(endpoint) for endpoint in Endpoint if endpoint in having)


def identifiers_of(result: JobResult, person: Person, context: FhirContext) -> dict[str, str]:
    """UUID of each resource by name: `device`, `report`, `risk`, `provenance` and the observations.

    The patient is a part of it: what was filed under another one is another resource.
    """
    names = ("report", "risk", "provenance", *names_of(result))
    bundle = result.bundle
    installed = (context.device_uid, context.software_version, bundle.name, bundle.version, bundle.digest)
    whose = {name: _uuid(name, context.key, person) for name in names}
    return {"device": resource_uuid("device", *installed), **whose}


def report_identifier(key: str, person: Person) -> str:
    """`urn:uuid:...` of the DiagnosticReport of a work item, by its content key."""
    return f"urn:uuid:{_uuid('report', key, person)}"


def _uuid(name: str, key: str, person: Person) -> str:
    return resource_uuid(name, key, person.patient_id, person.issuer_of_patient_id)


@dataclass(frozen=True)
class Making:
    """All of it, for the functions that make the resources."""

    result: JobResult
    person: Person
    context: FhirContext
    place: Place

    @property
    def scored(self) -> bool:
        return self.result.outcome is Outcome.SCORED

    @property
    def refusal(self) -> Refusal:
        """Raises ValueError for a scored result."""
        return refusal_of(self.result)

    def reference(self, name: str) -> Json:
        return {"reference": self.place.references[name]}

    def identifier(self, name: str) -> list[Json]:
        uuid = identifiers_of(self.result, self.person, self.context)[name]
        return [uri_identifier(f"urn:uuid:{uuid}")]

    def study_reference(self) -> Json:
        return logical_reference("ImagingStudy", dicom_identifier(self.context.study_instance_uid))

    def created(self) -> str:
        return instant(self.context.created, self.context.zone)

    def effective(self) -> str:
        """When the images were made: the day; else when the result was."""
        return date(self.person.study_date) or self.created()

    def head(self, kind: str, *, contained: Sequence[Json] = (), device: bool = False, subject: bool = True) -> Json:
        """What every resource begins with; contained are only what it refers to (FHIR dom-3)."""
        whole = list(contained)
        whole += [self.place.patient] if subject and self.place.patient is not None else []
        whole += [self.place.device] if device and self.place.device is not None else []
        made: Json = {"resourceType": kind, "meta": self._meta(), "language": self.context.language}
        return made | ({"contained": whole} if whole else {})

    def _meta(self) -> Json:
        """Labels for programs: research; and test data, where the bundle is a synthetic one."""
        security = [plain_coding(f"{TERMS}/v3-ActReason", "HRESCH", "healthcare research")]
        tags = [plain_coding(OWN, RESEARCH_USE, "Research use only")]
        if self.result.bundle.synthetic:
            security.append(plain_coding(f"{TERMS}/v3-ActReason", "HTEST", "test health data"))
            tags.append(plain_coding(OWN, "SYNTHETIC", "SYNTHETIC - NOT FOR CLINICAL USE"))
        return {"security": security, "tag": tags}

    # -- what is said ----------------------------------------------------------------------------------------

    def use(self) -> list[str]:
        """What a result is for: said first, everywhere."""
        return use_of(self.result, self.context.language)

    def worth(self) -> list[str]:
        """What the score rests on, what it did without, how good this sub-model was, and what else to know."""
        language, result = self.context.language, self.result
        said = []
        if result.sub_model is not None:
            said = [words.sub_model(result.sub_model, language)]
            said += [words.validation(performance, language) for performance in result.sub_model.performance]
            said.append(words.intervals_are_narrow(language))
        said.insert(1, words.lent(result, language))
        said += [particulars.quality(flag, language) for flag in result.quality]
        return [text for text in dict.fromkeys(said) if text]

    def why(self) -> list[str]:
        """Why there is no score, and what would make one possible."""
        language = self.context.language
        wording = words.reason(self.refusal.reason, language)
        detail = speaker(language).retell(self.refusal.detail)
        return [text for text in (wording.sentence, detail, wording.remedy) if text]


def use_of(result: JobResult, language: str) -> list[str]:
    """The statement of use, and the warning of a synthetic bundle."""
    said = [words.research_use(language)]
    return [*said, words.synthetic_warning(language)] if result.bundle.synthetic else said
