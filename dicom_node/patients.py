"""Who each study is of: as received, and as later merges, updates and the PACS say. Reached as `store.patients`."""

from dataclasses import asdict, fields, replace

from dicom_node.database import Database
from dicom_node.identity import Identity

_NAMES = tuple(field.name for field in fields(Identity))
_COLUMNS = ", ".join(_NAMES)


class Patients:
    """The tables study, identity_change and patient_merge."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def received(self, study_instance_uid: str, identity: Identity, now: float) -> None:
        """Record what a stored image says of its study. Inside the caller's transaction.

        A study whose identity was changed by anything newer than its images keeps that one.
        """
        current = self._current(study_instance_uid)
        if current is None:
            moved = self._merged(identity)
            row = {**asdict(moved), "source": "DICOM" if moved == identity else "HL7 ADT^A40"}
            self._db.insert(
                "study",
                {
                    "study_instance_uid": study_instance_uid,
                    **row,
                    "received": identity.to_json(),
                    "updated_at": now,
                },
            )
        elif current[1] == "DICOM" and current[0] != identity:
            self._write(study_instance_uid, identity, "DICOM", now)
            self._db.execute(
                "UPDATE study SET received = ? WHERE study_instance_uid = ?", [identity.to_json(), study_instance_uid]
            )

    def of_study(self, study_instance_uid: str) -> Identity | None:
        """The identity now."""
        current = self._current(study_instance_uid)
        return current[0] if current else None

    def as_received(self, study_instance_uid: str) -> Identity | None:
        """The identity that came with the images."""
        rows = self._db.rows("SELECT received FROM study WHERE study_instance_uid = ?", [study_instance_uid])
        return Identity.from_json(rows[0]["received"]) if rows else None

    def change(self, study_instance_uid: str, identity: Identity, source: str, now: float) -> bool:
        """Take a newer identity of a study, and remember both sides. False when nothing differs."""
        with self._db.immediate():
            current = self._current(study_instance_uid)
            if current is None or current[0] == identity:
                return False
            self._write(study_instance_uid, identity, source, now)
        return True

    def studies_of(self, patient_id: str, issuer: str = "") -> list[str]:
        """Studies of a patient now; an empty issuer matches any."""
        rows = self._db.rows(
            "SELECT study_instance_uid AS uid FROM study WHERE patient_id = ?"
            " AND (? = '' OR issuer_of_patient_id IN ('', ?)) ORDER BY uid",
            [patient_id, issuer, issuer],
        )
        return [row["uid"] for row in rows]

    def missing(self, limit: int = 200) -> list[tuple[str, str, str]]:
        """(study, SOP Instance UID, digest) of studies that an older Prognode stored without an identity."""
        rows = self._db.rows(
            "SELECT study_instance_uid AS study, sop_instance_uid AS uid, digest FROM instance i WHERE own = 0 AND"
            " NOT EXISTS (SELECT 1 FROM study s WHERE s.study_instance_uid = i.study_instance_uid)"
            " GROUP BY study_instance_uid LIMIT ?",
            [limit],
        )
        return [(row["study"], row["uid"], row["digest"]) for row in rows]

    def _merged(self, identity: Identity) -> Identity:
        """The identity after the merges that are known: an old patient ID may still be on a modality's list."""
        seen: set[tuple[str, str]] = set()
        while identity.patient_id and (at := (identity.patient_id, identity.issuer_of_patient_id)) not in seen:
            seen.add(at)
            rows = self._db.rows(
                "SELECT patient_id, issuer_of_patient_id FROM patient_merge WHERE prior_patient_id = ?"
                " AND prior_issuer IN (?, '') ORDER BY prior_issuer DESC LIMIT 1",
                list(at),
            )
            if not rows:
                break
            issuer = rows[0]["issuer_of_patient_id"] or identity.issuer_of_patient_id
            identity = replace(identity, patient_id=rows[0]["patient_id"], issuer_of_patient_id=issuer)
        return identity

    def _current(self, study_instance_uid: str) -> tuple[Identity, str] | None:
        rows = self._db.rows(f"SELECT {_COLUMNS}, source FROM study WHERE study_instance_uid = ?", [study_instance_uid])
        if not rows:
            return None
        return Identity(**{name: rows[0][name] for name in _NAMES}), rows[0]["source"]

    def _write(self, study_instance_uid: str, identity: Identity, source: str, now: float) -> None:
        before = self.of_study(study_instance_uid) or Identity()
        sets = ", ".join(f"{name} = ?" for name in _NAMES)
        self._db.execute(
            f"UPDATE study SET {sets}, source = ?, updated_at = ? WHERE study_instance_uid = ?",
            [*asdict(identity).values(), source, now, study_instance_uid],
        )
        change = {"study_instance_uid": study_instance_uid, "at": now, "source": source}
        self._db.insert("identity_change", {**change, "before": before.to_json(), "after": identity.to_json()})
