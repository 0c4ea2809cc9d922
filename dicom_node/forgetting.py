"""Who the patients are, and their clinical values: what of that may be forgotten. Reached as `store.forgetting`.

Nothing of a study is forgotten while any of its files or results is here or any work on it is open.
"""

from collections.abc import Iterator

from dicom_node.audit import Audit, AuditEntry
from dicom_node.database import Database
from dicom_node.retention import ACTOR, Retention

PAGE = 500
MERGED_PAGES = 200  # of the search index, rewritten in one transaction
LINKED_IDS = 200  # Patient IDs that merges link; more than these, and nothing is forgotten

# Neither a file nor a result of the study `s` is here, and no work on it is open.
_GONE = (
    "NOT EXISTS (SELECT 1 FROM instance i WHERE i.study_instance_uid = s.study_instance_uid AND i.removed != 2)"
    " AND NOT EXISTS (SELECT 1 FROM work_item w WHERE w.study_instance_uid = s.study_instance_uid"
    " AND (w.state NOT IN ('COMPLETED', 'CANCELED') OR w.key IS NOT NULL AND w.results_removed != 2))"
)
_LAST = "max(max(recorded_at, coalesce(ended_at, 0)))"


class Forgetting:
    """The tables study, identity_change, patient_merge and clinical_*: rows of patients whose studies are gone."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._retention = Retention(database)
        self._audit = Audit(database)

    # -- what is here ----------------------------------------------------------------------------------------

    def identities(self) -> tuple[int, float | None]:
        """Of how many studies it is known whose they are, and the oldest change of one."""
        row = self._db.rows("SELECT count(*) AS n, min(updated_at) AS oldest FROM study")[0]
        return row["n"], row["oldest"]

    def values(self) -> tuple[int, float | None]:
        """How many clinical values there are, and when the oldest came."""
        row = self._db.rows("SELECT count(*) AS n, min(recorded_at) AS oldest FROM clinical_value")[0]
        return row["n"], row["oldest"]

    # -- identities ------------------------------------------------------------------------------------------

    def studies(self, before: float) -> Iterator[str]:
        """Studies whose identity may go: all of them is gone, and nothing has changed since a time."""
        after = (float("-inf"), "")
        while found := self._db.rows(
            "SELECT updated_at AS at, study_instance_uid AS uid FROM study s WHERE updated_at < ?"
            f" AND (updated_at, study_instance_uid) > (?, ?) AND {_GONE} ORDER BY 1, 2 LIMIT ?",
            [before, *after, PAGE],
        ):
            after = (found[-1]["at"], found[-1]["uid"])
            yield from (row["uid"] for row in found if self._closed(row["uid"], before))

    def forget_study(self, study_instance_uid: str, before: float, now: float) -> bool:
        """Forget whose study it is, with the audit entry. False: there is something of it again."""
        with self._db.immediate():
            study = [study_instance_uid]
            gone = f"SELECT patient_id FROM study s WHERE study_instance_uid = ? AND updated_at < ? AND {_GONE}"
            rows = self._db.rows(gone, [*study, before])
            if not rows or not self._closed(study_instance_uid, before):
                return False
            self._db.execute("DELETE FROM study WHERE study_instance_uid = ?", study)
            self._db.execute("DELETE FROM identity_change WHERE study_instance_uid = ?", study)
            self._db.execute("UPDATE work_item SET identity = NULL WHERE study_instance_uid = ?", study)
            if not self._has_rows(patient := rows[0]["patient_id"]):
                for table in ("clinical_change", "clinical_pull"):  # asked for, and nothing came
                    self._db.execute(f"DELETE FROM {table} WHERE patient_id = ?", [patient])
            self._audit.add(AuditEntry(now, ACTOR, "node", "identity.removed", study_instance_uid=study_instance_uid))
        return True

    def _closed(self, study_instance_uid: str, before: float) -> bool:
        condition = self._retention.condition(study_instance_uid)
        return not condition.kept and condition.changed_at < before

    def forget_merges(self, before: float) -> int:
        """Forget merges of Patient IDs of whom nothing is here; how many."""
        count = 0
        for row in self._db.rows("SELECT * FROM patient_merge WHERE at < ?", [before]):
            with self._db.immediate():
                linked = self._linked(row["prior_patient_id"])
                if not linked or any(self._has_rows(one) for one in linked):
                    continue
                count += self._db.execute(
                    "DELETE FROM patient_merge WHERE prior_patient_id = ? AND prior_issuer = ?",
                    [row["prior_patient_id"], row["prior_issuer"]],
                )
        return count

    def forget_questions(self, before: float) -> int:
        """Forget questions to FHIR servers about Patient IDs of which nothing is here; how many."""
        here = " AND ".join(
            f"NOT EXISTS (SELECT 1 FROM {each} h WHERE h.patient_id = clinical_pull.patient_id)"
            for each in ("study", "clinical_value")
        )
        return self._db.execute(f"DELETE FROM clinical_pull WHERE wanted_at < ? AND {here}", [before])

    def _has_rows(self, patient_id: str) -> bool:
        tables = ("study", "clinical_value")
        return any(self._db.rows(f"SELECT 1 FROM {each} WHERE patient_id = ? LIMIT 1", [patient_id]) for each in tables)

    # -- clinical values -------------------------------------------------------------------------------------

    def patients(self, before: float) -> Iterator[tuple[str, int]]:
        """Patients whose clinical values may go, with their number: none is newer, and all their studies are gone."""
        after = ""
        while found := self._db.rows(
            "SELECT patient_id AS id, count(*) AS n FROM clinical_value WHERE patient_id > ? GROUP BY patient_id"
            f" HAVING {_LAST} < ? ORDER BY 1 LIMIT ?",
            [after, before, PAGE],
        ):
            after = found[-1]["id"]
            yield from ((row["id"], row["n"]) for row in found if self._is_past(row["id"], before))

    def forget_values(self, patient_id: str, before: float, now: float) -> bool:
        """Forget a patient's clinical values, with the audit entry. False: there is something newer."""
        with self._db.immediate():
            newest = f"SELECT {_LAST} AS at FROM clinical_value WHERE patient_id = ?"
            last = self._db.rows(newest, [patient_id])[0]["at"]
            if last is None or last >= before or not self._is_past(patient_id, before):
                return False
            for table in ("clinical_value", "clinical_change", "clinical_pull"):
                self._db.execute(f"DELETE FROM {table} WHERE patient_id = ?", [patient_id])
            facts = {"patient_id": patient_id}
            self._audit.add(AuditEntry(now, ACTOR, "node", "clinical.removed", facts=facts))
        return True

    def _is_past(self, patient_id: str, before: float) -> bool:
        """Whether all studies of a patient, by any Patient ID that merges link to this one, are gone since a time."""
        linked = self._linked(patient_id)
        return bool(linked) and all(self._gone(each, before) for each in linked)

    def _gone(self, patient_id: str, before: float) -> bool:
        rows = self._db.rows(
            f"SELECT study_instance_uid AS uid, {_GONE} AS gone FROM study s WHERE patient_id = ?", [patient_id]
        )
        return all(row["gone"] and self._closed(row["uid"], before) for row in rows)

    def _linked(self, patient_id: str) -> list[str]:
        """This Patient ID and those that merges link to it, whoever issued them; [] where they are too many."""
        found = [patient_id]
        for one in found:
            rows = self._db.rows(
                "SELECT patient_id AS id FROM patient_merge WHERE prior_patient_id = :id"
                " UNION SELECT prior_patient_id FROM patient_merge WHERE patient_id = :id",
                {"id": one},
            )
            found += [row["id"] for row in rows if row["id"] not in found]
            if len(found) > LINKED_IDS:
                return []
        return found

    # -- what is left in the file ----------------------------------------------------------------------------

    def purge_search(self) -> Iterator[None]:
        """Rewrite the search index without the words of what was forgotten, a few pages at a time (FTS5 'merge').

        A deleted word stands in it otherwise until other writes happen to merge its part. Freed pages of the file are
        overwritten by SQLite (secure_delete).
        """
        pages = -MERGED_PAGES  # the first time: all parts, as 'optimize' does
        while True:
            before = self._db.connection.total_changes
            with self._db.immediate():
                self._db.execute("INSERT INTO study_search (study_search, rank) VALUES ('merge', ?)", [pages])
            if self._db.connection.total_changes - before < 2:
                return
            pages = MERGED_PAGES
            yield
