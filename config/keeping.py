"""Settings of what the node keeps: how full its disk may be, for how long, and the audit trail."""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Storage:
    """Watermarks of the spool's disk, and days after which what is delivered and proved may go; 0: never.

    Below `warn_free_*` a warning is logged, and what could go anyway goes after `pressure_days` already. Below
    `refuse_free_percent` (and [receive] reserve_disk_bytes) nothing more is taken. Of two limits the higher counts.
    """

    warn_free_bytes: int = 20_000_000_000
    warn_free_percent: float = 10.0
    refuse_free_percent: float = 2.0
    pressure_days: float = 7.0
    received_days: float = 90.0
    results_days: float = 365.0
    superseded_days: float = 90.0
    jobs_days: float = 30.0
    canceled_days: float = 90.0
    failed_days: float = 0.0
    waiting_days: float = 0.0
    events_days: float = 0.0
    clinical_days: float = 730.0
    identity_days: float = 730.0
    quarantine_days: float = 0.0
    copies_days: float = 90.0


@dataclass(frozen=True)
class Syslog:
    """A collector of audit messages: RFC 5424 over TLS (RFC 5425, PS3.15 A.6). `host` "": none."""

    host: str = ""
    port: int = 6514
    ca: Path | None = None
    certificate: Path | None = None
    private_key: Path | None = None
    timeout_seconds: float = 10.0
    longest_delay_seconds: float = 300.0


@dataclass(frozen=True)
class AuditTrail:
    """The audit trail: DICOM audit messages (PS3.15 A.5) in files of the spool, and to a collector.

    `source_id` and `enterprise_site_id` say who reports; "": the AE title and [node] site.
    """

    source_id: str = ""
    enterprise_site_id: str = ""
    rotate_bytes: int = 50_000_000
    keep_days: float = 0.0
    syslog: Syslog = field(default_factory=Syslog)
