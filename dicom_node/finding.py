"""What `prognode check` finds: each thing that is looked at has an identifier that stays, for monitoring. Leaf."""

from collections.abc import Mapping
from dataclasses import dataclass

# Identifier -> what it is called. Monitoring goes by the identifiers, so none is ever renamed; docs/operations.md has
# them all.
TITLES: Mapping[str, str] = {
    "settings.file": "settings",
    "installation.packages": "packages",
    "bundle.files": "bundle",
    "bundle.golden_case": "golden case",
    "report.language": "language",
    "plan.patterns": "ROI patterns",
    "rules": "rules",
    "clinical.codes": "clinical codes",
    "clinical.table": "clinical table",
    "machine.spool": "spool",
    "machine.disk": "disk",
    "machine.file_system": "file system",
    "machine.flush": "flush to disk",
    "machine.clock": "clock",
    "secrets.file": "secret",
    "secrets.files": "secrets",
    "audit.collector": "audit collector",
    "job.isolation": "job isolation",
    "node.port": "port of",
    "node.process": "process",
    "node.jobs": "jobs",
    "node.settings": "settings of",
    "node.ae_title": "AE title",
    "tls.settings": "TLS",
    "tls.certificate": "TLS certificate",
    "tls.chain": "TLS chain",
    "tls.authority": "TLS",
    "peers": "peers",
    "peers.callers": "callers",
    "peers.destinations": "destinations",
    "peer.echo": "C-ECHO",
    "peer.certificate": "certificate of",
    "peer.called": "calls of",
    "peer.test_object": "test object at",
    "hl7.peer": "HL7",
    "hl7.peer_certificate": "certificate of HL7",
    "hl7.listener": "HL7 listener",
    "fhir.server": "FHIR",
    "page": "worklist page",
    "page.certificate": "page's certificate",
    "page.sign_in": "hospital's sign-in",
    "page.users": "users of the page",
}


@dataclass(frozen=True)
class Finding:
    """One thing looked at. `about`: which one, where there may be several; the remedy of what is well is advice."""

    id: str
    well: bool
    text: str
    remedy: str = ""
    about: str = ""

    def __post_init__(self) -> None:
        TITLES[self.id]  # one that is not listed is a bug

    @property
    def name(self) -> str:
        """For people.

        >>> Finding("peer.echo", True, "answers", about="PACS").name
        'C-ECHO PACS'
        """
        return f"{TITLES[self.id]} {self.about}".rstrip()

    @property
    def level(self) -> str:
        """The word "ok", "note" for good advice, "failed" for what has to be mended."""
        return "failed" if not self.well else "note" if self.remedy else "ok"

    def as_json(self) -> dict[str, object]:
        """For programs."""
        return {
            "id": self.id,
            "about": self.about,
            "name": self.name,
            "level": self.level,
            "well": self.well,
            "text": self.text,
            "remedy": self.remedy,
        }
