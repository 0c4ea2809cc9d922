"""Who each study is of: as received, and as later merges, updates and the PACS say. Reached as `store.patients`."""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, fields, replace

from dicom_node.database import Database
from dicom_node.identity import FILED_BY, Demographics, Identity, PatientKey, patient_digest, says_nothing_new
from dicom_node.instance import CT_CLASSES

DICOM, HL7_MERGE, HL7_UPDATE, C_FIND = "DICOM", "HL7 ADT^A40", "HL7 ADT^A08", "C-FIND"  # study.source
MERGES_FOLLOWED = 100  # in one chain; a real one has two or three
_NAMES = tuple(field.name for field in fields(Identity))
_COLUMNS = ", ".join(_NAMES)
_AS_RECEIVED = (
    "SELECT 1 FROM study WHERE study_instance_uid = ? AND source = ?"
    f" AND ({_COLUMNS}) = ({', '.join('?' * len(_NAMES))})"
    " AND NOT EXISTS (SELECT 1 FROM patient_merge WHERE prior_patient_id = ?)"
)


@dataclass(frozen=True)
class IdentityChange:
    """One change of a study's identity, with both sides."""

    at: float
    source: str
    before: Identity
    after: Identity

    @property
    def attributes(self) -> tuple[str, ...]:
        """Names of the attributes that changed: fit for a log, as the values are not."""
        return tuple(name for name in _NAMES if getattr(self.before, name) != getattr(self.after, name))


class Patients:
    """The tables study, study_unidentified, identity_change and patient_merge."""

    def __init__(self, database: Database) -> None:
        self._db = database

    # -- what came with the images ---------------------------------------------------------------------------

    def received(self, study_instance_uid: str, identity: Identity, now: float, *, leading: bool = True) -> None:
        """Record what a stored object says of its study.

        `leading`: a CT image. A contour object may come from a workstation that dropped or rewrote attributes: it
        only speaks where no image has. A study whose identity was changed by anything newer than its images keeps it.
        """
        with self._db.immediate():
            if self._is_as_received(study_instance_uid, identity):
                return
            current = self._current(study_instance_uid)
            if current is None:
                row = {"study_instance_uid": study_instance_uid, **asdict(identity), "source": DICOM}
                self._db.insert("study", row | {"received": identity.to_json(), "updated_at": now})
                current = (identity, DICOM)
            elif not leading or current[1] != DICOM:
                return
            moved = self._merged(identity)
            if current[0] == moved:
                return
            self._write(study_instance_uid, moved, DICOM if moved == identity else HL7_MERGE, now)
            self._db.execute(
                "UPDATE study SET received = ? WHERE study_instance_uid = ?", [identity.to_json(), study_instance_uid]
            )

    def _is_as_received(self, study_instance_uid: str, identity: Identity) -> bool:
        """Whether images said just this before, and no merge is about the patient: the usual case, in one statement."""
        values = list(vars(identity).values())
        return bool(self._db.rows(_AS_RECEIVED, [study_instance_uid, DICOM, *values, identity.patient_id]))

    def missing(self, limit: int = 200) -> list[tuple[str, str | None, str | None]]:
        """(study, SOP Instance UID, digest) of studies that an older Prognode stored without an identity.

        Of each study a CT image where there is one, and the newest content; None where no file of it is here any more.
        """
        classes = sorted(CT_CLASSES)
        rows = self._db.rows(
            "SELECT u.study_instance_uid AS study, i.sop_instance_uid AS uid, i.digest, max(i.current"
            f" + 2 * (i.sop_class_uid IN ({', '.join('?' * len(classes))}))) AS best FROM study_unidentified u"
            " LEFT JOIN instance i ON i.study_instance_uid = u.study_instance_uid AND i.own = 0 AND i.removed = 0"
            " GROUP BY u.study_instance_uid LIMIT ?",
            [*classes, limit],
        )
        return [(row["study"], row["uid"], row["digest"]) for row in rows]

    # -- who it is now ---------------------------------------------------------------------------------------

    def of_study(self, study_instance_uid: str) -> Identity | None:
        """The identity now."""
        current = self._current(study_instance_uid)
        return current[0] if current else None

    def changed_since_received(self, study_instance_uid: str) -> Identity | None:
        """The identity now where anything but the images has set it; None: it is what the images say."""
        current = self._current(study_instance_uid)
        return current[0] if current and current[1] != DICOM else None

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

    def changes(self, study_instance_uid: str) -> list[IdentityChange]:
        """Every change, oldest first."""
        return self._changes(study_instance_uid, "")

    def _changes(self, study_instance_uid: str, order: str) -> list[IdentityChange]:
        rows = self._db.rows(
            'SELECT at, source, "before", "after" FROM identity_change WHERE study_instance_uid = ?'
            f" ORDER BY id {order}",
            [study_instance_uid],
        )
        parsed = Identity.from_json
        return [IdentityChange(row["at"], row["source"], parsed(row["before"]), parsed(row["after"])) for row in rows]

    def newest_change(self, study_instance_uid: str) -> IdentityChange | None:
        """The last change."""
        return next(iter(self._changes(study_instance_uid, "DESC LIMIT 1")), None)

    def replaced_by_hl7(self, study_instance_uid: str) -> list[Identity]:
        """What HL7 messages have replaced: a PACS that still says this has not heard of it yet."""
        return [change.before for change in self.changes(study_instance_uid) if change.source.startswith("HL7")]

    def studies_of(self, patient_id: str, issuer: str = "") -> list[str]:
        """Studies of a patient now; an empty issuer matches any."""
        return self.studies_of_key(PatientKey(patient_id, issuer))

    def studies_of_key(self, key: PatientKey) -> list[str]:
        """Studies of a patient now, as `PatientKey.means` has it."""
        rows = self._db.rows(
            "SELECT study_instance_uid AS uid, issuer_of_patient_id AS issuer FROM study WHERE patient_id = ?"
            " ORDER BY uid",
            [key.patient_id],
        )
        return [row["uid"] for row in rows if key.means(key.patient_id, row["issuer"])]

    # -- messages about patients -----------------------------------------------------------------------------

    def update(self, keys: Sequence[PatientKey], said: Demographics, source: str, now: float) -> list[str]:
        """Demographics of a patient have changed; the studies that this has changed."""
        with self._db.immediate():
            studies = dict.fromkeys(uid for key in keys for uid in self.studies_of_key(key))
            return [uid for uid in studies if self.change(uid, _with(self._known(uid), said), source, now)]

    def merge(self, prior: PatientKey, surviving: PatientKey, said: Demographics, source: str, now: float) -> list[str]:
        """A patient's studies belong to another Patient ID from now on, also those that arrive later.

        Chains are followed to their end. A merge that would close a circle is newer than the one that it contradicts:
        that one is forgotten. Gives the studies that this has changed.
        """
        if (prior.patient_id, prior.issuer) == (surviving.patient_id, surviving.issuer):
            return []
        with self._db.immediate():
            self._remember(prior, surviving, now)
            changed = []
            for uid in self.studies_of_key(prior):
                known = self._known(uid)
                moved = self._merged(known)
                direct = moved.patient_id == surviving.patient_id
                identity = _with(moved, said) if direct else moved
                if self.change(uid, identity, source, now):
                    changed.append(uid)
        return changed

    def same_person(self, patients: Collection[str]) -> dict[str, str]:
        """Digests of patients (`Instance.patient`) that were merged -> the digest of whom they were merged into."""
        found = {}
        for digest in patients:
            at = digest
            for _ in range(MERGES_FOLLOWED):
                into = self._merged_digest(at)
                if into is None or into == digest:
                    break
                at = into
            if at != digest:
                found[digest] = at
        return found

    # -- rows ------------------------------------------------------------------------------------------------

    def _remember(self, prior: PatientKey, surviving: PatientKey, now: float) -> None:
        end = self._merged(Identity(patient_id=surviving.patient_id, issuer_of_patient_id=surviving.issuer))
        if prior.means(end.patient_id, end.issuer_of_patient_id):
            for row in self._merges_of(surviving.patient_id, surviving.issuer):
                self._db.execute(
                    "DELETE FROM patient_merge WHERE prior_patient_id = ? AND prior_issuer = ?",
                    [surviving.patient_id, row["prior_issuer"]],
                )
        old_id, issuer = prior.patient_id.encode(), prior.issuer.encode()
        self._db.execute(
            "INSERT OR REPLACE INTO patient_merge (prior_patient_id, prior_issuer, patient_id, issuer_of_patient_id,"
            " exact, digest, bare_digest, at) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            [
                prior.patient_id,
                prior.issuer,
                surviving.patient_id,
                surviving.issuer,
                int(prior.exact),
                patient_digest(old_id, issuer),
                "" if prior.exact else patient_digest(old_id, b""),
                now,
            ],
        )

    def _merged(self, identity: Identity) -> Identity:
        """The identity after the merges that are known: an old Patient ID may still be on a modality's list."""
        seen: set[tuple[str, str]] = set()
        while identity.patient_id and (at := (identity.patient_id, identity.issuer_of_patient_id)) not in seen:
            seen.add(at)
            rows = self._merges_of(*at)
            if len(rows) != 1:  # none; or issuers differ, and the identity does not say which is meant
                break
            # A study whose images name no issuer stays without one: the PACS files it so.
            issuer = identity.issuer_of_patient_id and (rows[0]["issuer_of_patient_id"] or at[1])
            identity = replace(identity, patient_id=rows[0]["patient_id"], issuer_of_patient_id=issuer)
        return identity

    def _merges_of(self, patient_id: str, issuer: str) -> list[dict[str, str]]:
        rows = self._db.rows(
            "SELECT prior_issuer, exact, patient_id, issuer_of_patient_id FROM patient_merge"
            " WHERE prior_patient_id = ?",
            [patient_id],
        )
        meant = [
            row for row in rows if PatientKey(patient_id, row["prior_issuer"], row["exact"]).means(patient_id, issuer)
        ]
        stated = [row for row in meant if row["prior_issuer"] == issuer]
        return stated or meant

    def _merged_digest(self, digest: str) -> str | None:
        rows = self._db.rows(
            "SELECT patient_id, issuer_of_patient_id AS issuer, digest FROM patient_merge"
            " WHERE digest = ? OR bare_digest = ? AND bare_digest != ''",
            [digest, digest],
        )
        into = {
            patient_digest(row["patient_id"].encode(), row["issuer"].encode() if row["digest"] == digest else b"")
            for row in rows
        }
        return into.pop() if len(into) == 1 else None

    def _known(self, study_instance_uid: str) -> Identity:
        return self.of_study(study_instance_uid) or Identity()

    def _current(self, study_instance_uid: str) -> tuple[Identity, str] | None:
        rows = self._db.rows(f"SELECT {_COLUMNS}, source FROM study WHERE study_instance_uid = ?", [study_instance_uid])
        if not rows:
            return None
        return Identity(**{name: rows[0][name] for name in _NAMES}), rows[0]["source"]

    def _write(self, study_instance_uid: str, identity: Identity, source: str, now: float) -> None:
        before = self._known(study_instance_uid)
        sets = ", ".join(f"{name} = ?" for name in _NAMES)
        self._db.execute(
            f"UPDATE study SET {sets}, source = ?, updated_at = ? WHERE study_instance_uid = ?",
            [*asdict(identity).values(), source, now, study_instance_uid],
        )
        if any(getattr(before, name) != getattr(identity, name) for name in FILED_BY):
            change = {"study_instance_uid": study_instance_uid, "at": now, "source": source}
            self._db.insert("identity_change", {**change, "before": before.to_json(), "after": identity.to_json()})


def _with(identity: Identity, said: Demographics) -> Identity:
    """The identity with what a message says; a name that says nothing new leaves the known one whole."""
    values = {name: value for name, value in vars(said).items() if value is not None}
    if says_nothing_new(values.get("patient_name", ""), identity.patient_name):
        del values["patient_name"]
    return replace(identity, **values)
