"""All targets, and what share of the inputs each gets."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.fuzz.api import Api
from tests.fuzz.association import Associations
from tests.fuzz.documents import Bundles, Commitments, FhirAnswers, JobResults, SettingsFiles
from tests.fuzz.engine import Target
from tests.fuzz.files import Files, JobReaders
from tests.fuzz.messages import Hl7Reader, MllpListener


class Entry(NamedTuple):
    """`make` gets a folder of its own; `weight` is the share of a campaign's inputs."""

    make: Callable[[Path], Target]
    weight: int


TARGETS = {
    Files.name: Entry(Files, 25),
    JobReaders.name: Entry(JobReaders, 8),
    Associations.name: Entry(Associations, 10),
    Hl7Reader.name: Entry(Hl7Reader, 20),
    MllpListener.name: Entry(MllpListener, 8),
    JobResults.name: Entry(JobResults, 10),
    Bundles.name: Entry(Bundles, 4),
    SettingsFiles.name: Entry(SettingsFiles, 10),
    FhirAnswers.name: Entry(FhirAnswers, 5),
    Commitments.name: Entry(Commitments, 10),
    Api.name: Entry(Api, 5),
}
