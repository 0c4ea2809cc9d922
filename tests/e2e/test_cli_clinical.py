"""`prognode clinical` as an administrator runs it: rehearse, import, look, take back, export."""

import subprocess
from pathlib import Path

import pytest

from dicom_node.clinical_values import ClinicalEntry
from dicom_node.identity import Identity
from dicom_node.spool import Spool
from dicom_node.store import Store
from tests.e2e.node import PROGNODE

TABLE = "patient_id,observed_on,albumin [g/dL],ecog\nSECRET-1,2024-03-01,3.9,1\nSECRET-2,2024-03-02,3.512,NA\n"


class Site:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings = folder / "prognode.toml"
        self.settings.write_text('[node]\nspool = "spool"\n')
        self.spool = Spool(folder / "spool")
        self.spool.create()
        self.store = Store.open(self.spool.store)
        self.said = self.logged = ""

    def run(self, *arguments: str | Path, code: int = 0, stdin: str = "") -> str:
        done = subprocess.run(
            [PROGNODE, "clinical", *map(str, arguments), "--config", str(self.settings)],
            capture_output=True, text=True, timeout=120, check=False, input=stdin,
        )  # fmt: skip
        self.logged = done.stderr
        assert done.returncode == code, done.stdout + done.stderr
        assert "SECRET" not in done.stderr
        return done.stdout

    def table(self, text: str = TABLE, name: str = "labs.csv") -> Path:
        path = self.folder / name
        path.write_text(text, encoding="utf-8")
        return path


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_an_import_is_a_rehearsal_until_it_is_told_to_write(site: Site) -> None:
    said = site.run("import", site.table())
    assert "2 lines, utf-8-sig, separated by comma" in said
    assert "2 patients, 3 values" in said
    assert "albumin              from 'albumin [g/dL]' (g/dL x 10 = g/L): 2 new" in said
    assert "Nothing has been stored" in said
    assert "SECRET" not in said
    assert list(site.store.clinical.everything()) == []
    assert site.store.clinical.changes() == []

    assert "Stored: 3 values." in site.run("import", site.table(), "--write")
    assert "clinical.imported 3 values of 2 patients, 0 refused" in site.logged
    assert [value.value for value in site.store.clinical.everything()] == [39.0, 1.0, 35.12]
    (entry,) = [each for each in site.store.audit.newest() if each.action == "clinical.imported"]
    assert (entry.origin, entry.detail) == ("cli", "3 values of 2 patients")
    assert "2 unchanged" in site.run("import", site.table(), "--write")


def test_one_refused_cell_keeps_everything_out_unless_the_operator_says_otherwise(site: Site) -> None:
    table = site.table(TABLE + "SECRET-3,2024-03-03,39,1\nSECRET-4,2024-03-03,,5\n")
    said = site.run("import", table, "--write", code=65)
    assert "refused  line 4: lies outside the plausible range 10 to 60 g/L" in said
    assert "refused  line 5: lies outside the plausible range 0 to 4" in said
    assert "2 refused; nothing has been stored" in site.logged
    assert list(site.store.clinical.everything()) == []
    site.run("import", table, "--write", "--skip-refused")
    assert len(list(site.store.clinical.everything())) == 4


def test_two_lines_that_contradict_each_other_are_never_stored(site: Site) -> None:
    table = site.table(TABLE + "SECRET-1,2024-03-01,3.7,1\n")
    said = site.run("import", table, "--write", "--skip-refused", code=65)
    assert "line 2, 4: says something else than another line of the same patient and day" in said
    assert list(site.store.clinical.everything()) == []


def test_a_value_is_listed_shown_withdrawn_and_not_imported_again(site: Site) -> None:
    site.run("import", site.table(), "--write")
    assert site.run("list").split("\n")[1].split() == ["albumin", "csv", "2", "2", "2024-03-01", "to", "2024-03-02"]
    site.store.patients.received("1.2.3", Identity(patient_id="SECRET-1"), 1.0)
    shown = site.run("show", "--study", "1.2.3")
    assert "albumin = 39 g/L (stated as 3.9 g/dL)  [CSV import by " in shown
    assert site.run("show", "-", stdin="SECRET-1\n") == shown == site.run("show", "SECRET-1")
    site.run("show", "SECRET-9", code=65)
    assert "no clinical value was ever recorded for this Patient ID" in site.logged
    site.store.patients.received("1.2.4", Identity(patient_id="SECRET-9"), 1.0)
    assert site.run("show", "--study", "1.2.4").startswith("none; see: prognode clinical import")
    number = next(line for line in shown.splitlines() if "albumin" in line).split()[0]

    site.run("withdraw", number)
    assert "withdrawn by " in site.run("show", "--study", "1.2.3")
    assert "1 unchanged, 1 withdrawn earlier, not taken again" in site.run("import", site.table(), "--write")
    site.run("withdraw", number, code=65)
    site.run("withdraw", "999", code=65)
    (entry,) = [each for each in site.store.audit.newest() if each.action == "clinical.withdrawn"]
    assert (entry.detail, dict(entry.facts)["patient_id"]) == ("albumin", "SECRET-1")


def test_who_looked_at_a_patient_s_values_stands_in_the_audit_trail(site: Site) -> None:
    site.run("import", site.table(), "--write")
    site.run("show", "SECRET-9", "--issuer", "HOSP", code=65)
    site.run("show", "SECRET-1")
    looks = [each for each in site.store.audit.newest() if each.action == "clinical.read"]
    assert [(each.origin, each.detail) for each in looks] == [("cli", "2 values"), ("cli", "0 values")]
    assert looks[0].facts == {"patient_id": "SECRET-1"}
    assert looks[1].facts == {"patient_id": "SECRET-9", "issuer_of_patient_id": "HOSP"}


def test_an_export_that_fails_half_way_leaves_no_patient_data(site: Site) -> None:
    site.store.clinical.record(
        [ClinicalEntry(f"SECRET-{number}", "ecog", 1, "csv", "x" * 100) for number in range(600)], 1.0
    )
    exported = site.folder / "values.csv"
    limited = ["prlimit", "--fsize=40000", PROGNODE, "clinical", "export", exported, "--config", site.settings]
    done = subprocess.run(limited, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, done.stderr.count("File too large")) == (73, 1), done.stderr
    assert not exported.exists()
    assert [each for each in site.store.audit.newest() if each.action == "export.clinical"] == []


def test_what_is_exported_is_imported_as_it_was(site: Site, tmp_path: Path) -> None:
    site.run("import", site.table(), "--write")
    exported = site.folder / "values.csv"
    assert "3 values" in site.run("export", exported)
    assert exported.stat().st_mode & 0o077 == 0
    site.run("export", exported, code=73)  # nobody's file is replaced
    (tmp_path / "other").mkdir()
    other = Site(tmp_path / "other")
    other.run("import", exported, "--write")
    kept = [[(v.patient_id, v.name, v.value, v.unit, v.observed_on) for v in s.store.clinical.everything()]
            for s in (site, other)]  # fmt: skip
    assert kept[0] == kept[1]
    again = site.run("import", exported)
    assert "2 unchanged" in again
    assert "1 unchanged" in again
    assert " new" not in again


def test_wrong_use_and_missing_files_are_said_with_their_codes(site: Site) -> None:
    site.run("import", site.folder / "absent.csv", code=66)
    site.run("import", site.table("albumin\n39\n"), code=65)
    site.run("import", site.table(), "--map", "albumin", code=64)
    site.run("import", site.table(), "--write", "--dry-run", code=64)
    site.run("show", code=64)
    site.run("show", "--study", "1.2.3", code=65)
