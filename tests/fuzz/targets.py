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
    Files.name: Entry(Files, 20),
    JobReaders.name: Entry(JobReaders, 5),
    Associations.name: Entry(Associations, 2),
    Hl7Reader.name: Entry(Hl7Reader, 30),
    MllpListener.name: Entry(MllpListener, 7),
    JobResults.name: Entry(JobResults, 12),
    Bundles.name: Entry(Bundles, 1),
    SettingsFiles.name: Entry(SettingsFiles, 10),
    FhirAnswers.name: Entry(FhirAnswers, 3),
    Commitments.name: Entry(Commitments, 8),
    Api.name: Entry(Api, 2),
}
