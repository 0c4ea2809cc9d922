"""What arrived: instances as facts, and which images each contour object references. Reached as `store.arrivals`."""

import json
from collections.abc import Collection, Iterable, Mapping

from dicom_node.database import Database
from dicom_node.identity import Identity
from dicom_node.instance import CT_CLASSES, Instance
from dicom_node.patients import Patients


class Arrivals:
    """The tables instance, reference and reference_series."""

    def __init__(self, database: Database) -> None:
        self._db = database
        self._patients = Patients(database)

    def add(
        self,
        instance: Instance,
        calling_ae_title: str,
        now: float,
        identity: Identity | None = None,
        association: str = "",
    ) -> bool:
        """Record a stored instance; durable when this returns. False when these very bytes were here already.

        What retention had removed is here again, and looked at again; `association` is for the audit.
        """
        with self._db.immediate():
            known = self._db.rows(
                "SELECT digest, removed FROM instance WHERE sop_instance_uid = ? AND current = 1",
                [instance.sop_instance_uid],
            )
            if any(row["digest"] == instance.digest and not row["removed"] for row in known):
                return False
            if known:
                self._db.execute(
                    "UPDATE instance SET current = 0 WHERE sop_instance_uid = ? AND current = 1",
                    [instance.sop_instance_uid],
                )
            self._db.execute(
                "INSERT INTO instance (sop_instance_uid, digest, sop_class_uid, series_instance_uid,"
                " study_instance_uid, frame_of_reference_uid, header, calling_ae_title, received_at, own, planned,"
                " association) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
                " ON CONFLICT (sop_instance_uid, digest) DO UPDATE SET current = 1, planned = excluded.planned,"
                " received_at = excluded.received_at, association = excluded.association,"
                " calling_ae_title = excluded.calling_ae_title, removed = 0",
                [
                    instance.sop_instance_uid,
                    instance.digest,
                    instance.sop_class_uid,
                    instance.series_instance_uid,
                    instance.study_instance_uid,
                    instance.frame_of_reference_uid,
                    instance.to_json(),
                    calling_ae_title,
                    now,
                    int(instance.own),
                    int(instance.own),
                    association,
                ],
            )
            if instance.is_roi and not instance.own:
                self._add_references(instance)
            if identity is not None and not instance.own:
                self._patients.received(instance.study_instance_uid, identity, now, leading=instance.is_ct)
        return True

    def _add_references(self, roi: Instance) -> None:
        uid = roi.sop_instance_uid
        self._db.execute("DELETE FROM reference WHERE roi_sop_instance_uid = ?", [uid])
        self._db.execute("DELETE FROM reference_series WHERE roi_sop_instance_uid = ?", [uid])
        self._db.many(
            "INSERT OR IGNORE INTO reference VALUES (?, ?)",
            [(uid, image) for image in roi.referenced_sop_instance_uids],
        )
        self._db.many(
            "INSERT OR IGNORE INTO reference_series VALUES (?, ?)",
            [(uid, series) for series in roi.referenced_series_instance_uids],
        )

    def unplanned(self, limit: int = 2000) -> list[tuple[int, Instance]]:
        """Instances that the planner has not looked at, oldest first, with their row ids."""
        rows = self._db.rows("SELECT id, header FROM instance WHERE planned = 0 ORDER BY id LIMIT ?", [limit])
        return [(row["id"], Instance.from_json(row["header"])) for row in rows]

    def mark_planned(self, ids: Iterable[int]) -> None:
        with self._db.immediate():
            self._db.many("UPDATE instance SET planned = 1 WHERE id = ?", [(i,) for i in ids])

    def instance(self, sop_instance_uid: str) -> Instance | None:
        """The newest content of an instance."""
        rows = self._db.rows(
            "SELECT header FROM instance WHERE sop_instance_uid = ? AND current = 1", [sop_instance_uid]
        )
        return Instance.from_json(rows[0]["header"]) if rows else None

    def has(self, sop_instance_uid: str, digest: str) -> bool:
        """Whether these bytes are the newest of an instance, and not removed."""
        rows = self._db.rows(
            "SELECT 1 FROM instance WHERE sop_instance_uid = ? AND digest = ? AND current = 1 AND removed = 0",
            [sop_instance_uid, digest],
        )
        return bool(rows)

    def calling_ae_title(self, sop_instance_uid: str) -> str:
        """Who sent the newest content of an instance; '' where it is not here."""
        rows = self._db.rows(
            "SELECT calling_ae_title AS title FROM instance WHERE sop_instance_uid = ? AND current = 1",
            [sop_instance_uid],
        )
        return str(rows[0]["title"]) if rows else ""

    def rois_touched_by(self, sop_instance_uid: str, series_instance_uid: str) -> set[str]:
        """SOP Instance UIDs of the contour objects that reference this image or its series."""
        rows = self._db.rows(
            "SELECT roi_sop_instance_uid AS uid FROM reference WHERE sop_instance_uid = ?"
            " UNION SELECT roi_sop_instance_uid FROM reference_series WHERE series_instance_uid = ?",
            [sop_instance_uid, series_instance_uid],
        )
        return {row["uid"] for row in rows}

    def images_for(self, roi: Instance) -> list[Instance]:
        """What is on hand for a contour object: the referenced instances, their series, and, for an object without
        references, the CT of its frame of reference."""
        rows = self._db.rows(
            "WITH series AS (SELECT DISTINCT i.series_instance_uid AS uid FROM reference r JOIN instance i"
            " ON i.sop_instance_uid = r.sop_instance_uid AND i.current = 1 WHERE r.roi_sop_instance_uid = :roi"
            " UNION SELECT series_instance_uid FROM reference_series WHERE roi_sop_instance_uid = :roi"
            " UNION SELECT series_instance_uid FROM instance WHERE :bare AND current = 1 AND"
            " frame_of_reference_uid = :frame AND study_instance_uid = :study)"
            " SELECT i.header FROM series JOIN instance i ON i.series_instance_uid = series.uid AND i.current = 1"
            " WHERE i.own = 0 ORDER BY i.sop_instance_uid",
            {
                "roi": roi.sop_instance_uid,
                "bare": not roi.referenced_sop_instance_uids,
                "frame": roi.frame_of_reference_uid,
                "study": roi.study_instance_uid,
            },
        )
        found = (Instance.from_json(row["header"]) for row in rows)
        return [instance for instance in found if not instance.is_roi]

    def series(self, series_instance_uid: str) -> list[Instance]:
        """The instances of a series, in order of their UIDs."""
        rows = self._db.rows(
            "SELECT header FROM instance WHERE series_instance_uid = ? AND current = 1 ORDER BY sop_instance_uid",
            [series_instance_uid],
        )
        return [Instance.from_json(row["header"]) for row in rows]

    def other_ct_series(self, study_instance_uid: str, series_instance_uid: str) -> int:
        """How many CT series of a study are here beside this one."""
        classes = ", ".join(f"'{one}'" for one in sorted(CT_CLASSES))
        rows = self._db.rows(
            "SELECT count(DISTINCT series_instance_uid) AS n FROM instance WHERE study_instance_uid = ?"
            f" AND series_instance_uid != ? AND current = 1 AND own = 0 AND sop_class_uid IN ({classes})",
            [study_instance_uid, series_instance_uid],
        )
        return int(rows[0]["n"])

    def contents(self, digests: Mapping[str, str]) -> list[Instance]:
        """Instances by SOP Instance UID and digest, also where newer bytes of theirs have come since."""
        rows = self._db.rows(
            "SELECT i.header FROM json_each(?) wanted JOIN instance i"
            " ON i.sop_instance_uid = wanted.key AND i.digest = wanted.value ORDER BY wanted.id",
            [json.dumps(dict(digests))],
        )
        return [Instance.from_json(row["header"]) for row in rows]

    def last_arrival(self, series_instance_uids: Collection[str]) -> float | None:
        """When the newest instance of these series came, for the quiet timer."""
        marks = ", ".join("?" * len(series_instance_uids))
        rows = self._db.rows(
            f"SELECT max(received_at) AS at FROM instance WHERE current = 1 AND series_instance_uid IN ({marks})",
            list(series_instance_uids),
        )
        latest: float | None = rows[0]["at"]
        return latest

    def received_at(self, sop_instance_uid: str) -> float:
        """When the newest content of an instance came."""
        rows = self._db.rows(
            "SELECT received_at AS at FROM instance WHERE sop_instance_uid = ? AND current = 1", [sop_instance_uid]
        )
        return float(rows[0]["at"])

    def newest(self) -> int:
        """A number that grows with each instance that comes, be it of this node's own."""
        return int(self._db.rows("SELECT coalesce(max(id), 0) AS newest FROM instance")[0]["newest"])

    def knows_study(self, study_instance_uid: str) -> bool:
        return bool(self._db.rows("SELECT 1 FROM instance WHERE study_instance_uid = ? LIMIT 1", [study_instance_uid]))
