"""Which FHIR servers are asked about which patients, and what came of it. Reached as `store.pulls`.

A row is open from the moment that a study asks until a server has answered in full: so a restart loses no question, and
two studies of one patient ask once.
"""

from collections.abc import Collection
from dataclasses import dataclass, fields

from dicom_node.database import Database

GIVEN_UP_SECONDS = 7 * 86_400.0


@dataclass(frozen=True)
class Pull:
    """A row of clinical_pull. `detail`: why there is no answer, or what is odd about it, without PHI."""

    patient_id: str
    issuer_of_patient_id: str
    server: str
    wanted_at: float
    answered_at: float | None
    attempts: int
    run_after: float
    detail: str

    @property
    def is_open(self) -> bool:
        return self.answered_at is None or self.answered_at < self.wanted_at


_COLUMNS = ", ".join(field.name for field in fields(Pull))
_KEY = "patient_id = ? AND issuer_of_patient_id = ? AND server = ?"
_OPEN = "(answered_at IS NULL OR answered_at < wanted_at)"


class ClinicalPulls:
    """The table clinical_pull."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def ask(self, patient: tuple[str, str], server: str, now: float, newer_than: float) -> Pull:
        """A study wants a server's values of a patient (ID, issuer); an answer before `newer_than` is asked again."""
        key = [*patient, server]
        with self._db.immediate():
            found = self._pull(key)
            if found is None:
                self._db.execute(
                    "INSERT INTO clinical_pull (patient_id, issuer_of_patient_id, server, wanted_at)"
                    " VALUES (?, ?, ?, ?)",
                    [*key, now],
                )
            elif (found.answered_at is not None and not found.is_open and found.answered_at < newer_than) or (
                found.is_open and found.wanted_at < now - GIVEN_UP_SECONDS
            ):
                self._db.execute(
                    f"UPDATE clinical_pull SET wanted_at = ?, attempts = 0, run_after = 0, detail = '' WHERE {_KEY}",
                    [now, *key],
                )
            else:
                return found
        asked = self._pull(key)
        assert asked is not None
        return asked

    def due(self, now: float, servers: Collection[str]) -> Pull | None:
        """The question that has been open longest to one of these servers."""
        marks = ", ".join("?" * len(servers))
        rows = self._db.rows(
            f"SELECT {_COLUMNS} FROM clinical_pull WHERE {_OPEN} AND run_after <= ? AND wanted_at > ?"
            f" AND server IN ({marks}) ORDER BY wanted_at, patient_id LIMIT 1",
            [now, now - GIVEN_UP_SECONDS, *servers],
        )
        return Pull(**rows[0]) if rows else None

    def answered(self, pull: Pull, now: float, detail: str = "") -> None:
        """A server has said what it has; a study that asked after the question was sent has to wait for the next."""
        self._db.execute(
            f"UPDATE clinical_pull SET answered_at = ?, attempts = 0, run_after = 0, detail = ? WHERE {_KEY}"
            " AND wanted_at = ?",
            [max(now, pull.wanted_at), detail, pull.patient_id, pull.issuer_of_patient_id, pull.server, pull.wanted_at],
        )

    def failed(self, pull: Pull, run_after: float, detail: str) -> None:
        """A server could not be asked; it is asked again later, unless the question has been asked anew meanwhile."""
        self._db.execute(
            f"UPDATE clinical_pull SET attempts = attempts + 1, run_after = ?, detail = ? WHERE {_KEY}"
            " AND wanted_at = ?",
            [run_after, detail, pull.patient_id, pull.issuer_of_patient_id, pull.server, pull.wanted_at],
        )

    def _pull(self, key: list[str]) -> Pull | None:
        rows = self._db.rows(f"SELECT {_COLUMNS} FROM clinical_pull WHERE {_KEY}", key)
        return Pull(**rows[0]) if rows else None
