"""A store of an older schema: copied first, migrated in one transaction, and whole whatever happens in between."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import pytest

from dicom_node.database import SCHEMA_VERSION, Database
from dicom_node.identity import Identity
from dicom_node.instance import CT, Instance
from dicom_node.store import Store
from dicom_node.workitem import ConfigError, State, StoreBusy
from tests.paths import ROOT
from tests.small_disk import small_disk

IMAGE = Instance("1.2.1", CT, "1.9", "1.8", "1.2.840.10008.1.2.1", "a1")
ROI = Instance("1.5", "1.2.840.10008.5.1.4.1.1.481.3", "1.7", "1.8", "1.2.840.10008.1.2.1", "r")


def old_store(path: Path, items: int = 3) -> None:
    """A store as the first release made it, with rows in every table."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.executescript(resources.files("dicom_node").joinpath("schema/001.sql").read_text("utf-8"))
    connection.execute("PRAGMA user_version=1")
    for instance in (IMAGE, ROI):
        connection.execute(
            "INSERT INTO instance (sop_instance_uid, digest, sop_class_uid, series_instance_uid, study_instance_uid,"
            " frame_of_reference_uid, header, calling_ae_title, received_at, own, planned)"
            " VALUES (?, ?, ?, ?, ?, '', ?, ?, ?, 0, 1)",
            [instance.sop_instance_uid, instance.digest, instance.sop_class_uid, instance.series_instance_uid,
             instance.study_instance_uid, instance.to_json(), "CT01", 5.0],
        )  # fmt: skip
    connection.execute("INSERT INTO reference VALUES ('1.5', '1.2.1')")
    connection.execute("INSERT INTO reference_series VALUES ('1.5', '1.9')")
    for number in range(items):
        connection.execute(
            "INSERT INTO work_item (state, study_instance_uid, ct_series_instance_uid, roi_sop_instance_uid, key,"
            " content_key, inputs_digest, plan, outcome, created_at, updated_at) VALUES"
            " ('COMPLETED', '1.8', '1.9', '1.5', ?, ?, ?, '{}', 'SCORED', 1.0, 2.0)",
            [f"k{number}", f"k{number}", f"i{number}"],
        )
        connection.execute("INSERT INTO event (work_item_id, at, name) VALUES (?, 1.0, 'completed')", [number + 1])
        connection.execute(
            "INSERT INTO delivery (work_item_id, document, destination, state, final) VALUES (?, 'risk-sr', 'PACS',"
            " 'SEEN', 1)",
            [number + 1],
        )
    connection.commit()
    connection.close()


class Content(NamedTuple):
    version: int
    tables: dict[str, list[tuple[object, ...]]]


def content(path: Path) -> Content:
    """Every row of the tables of schema 1, by the columns of schema 1."""
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        version = int(connection.execute("PRAGMA user_version").fetchone()[0])
        tables = {}
        for table, columns in COLUMNS.items():
            tables[table] = connection.execute(f"SELECT {columns} FROM {table} ORDER BY 1, 2").fetchall()
        return Content(version, tables)
    finally:
        connection.close()


def columns_of_schema_1() -> dict[str, str]:
    connection = sqlite3.connect(":memory:")
    connection.executescript(resources.files("dicom_node").joinpath("schema/001.sql").read_text("utf-8"))
    names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    found = {name: ", ".join(row[1] for row in connection.execute(f"PRAGMA table_info({name})")) for name in names}
    connection.close()
    return found


COLUMNS = columns_of_schema_1()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "store.sqlite"
    old_store(made)
    return made


def kept(path: Path) -> Path:
    return path.with_name("store.sqlite.schema-1")


def names(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir() if not each.name.endswith(("-wal", "-shm")))


def test_everything_is_kept_and_the_store_as_it_was_lies_beside(path: Path) -> None:
    before = content(path)
    assert before.version == 1
    assert all(before.tables.values())
    store = Store.open(path)
    assert [item.state for item in store.items()] == [State.COMPLETED] * 3
    assert store.arrivals.instance("1.2.1") == IMAGE
    assert store.items()[0].held == 0
    store.close()
    after = content(path)
    assert after.version == SCHEMA_VERSION
    assert after.tables == before.tables
    assert content(kept(path)) == before
    assert kept(path).stat().st_mode & 0o777 == 0o600
    assert names(path.parent) == ["store.sqlite", "store.sqlite.schema-1"]


def test_studies_of_the_old_store_are_listed_until_it_is_known_whose_they_are(path: Path) -> None:
    store = Store.open(path)
    assert store.patients.missing() == [("1.8", "1.2.1", "a1")], "an image speaks, not the contour"
    store._db.execute("UPDATE instance SET removed = 2")
    assert store.patients.missing() == [("1.8", None, None)]
    store.patients.received("1.8", Identity(), 6.0)
    assert store.patients.missing() == []
    store.arrivals.add(replace(IMAGE, sop_instance_uid="2.1", study_instance_uid="2.8"), "CT01", 7.0, Identity())
    assert store.patients.missing() == [], "what arrives brings its own"
    store.close()


def test_a_store_that_is_new_or_up_to_date_needs_no_copy(tmp_path: Path) -> None:
    for _ in range(2):
        Store.open(tmp_path / "store.sqlite").close()
    assert [each.name for each in tmp_path.iterdir()] == ["store.sqlite"]


def test_what_was_only_in_the_log_file_is_in_the_copy_too(path: Path) -> None:
    writer = sqlite3.connect(path)
    writer.execute("UPDATE work_item SET hint = 'still in the WAL' WHERE id = 1")
    writer.commit()
    Store.open(path).close()
    writer.close()
    copied = sqlite3.connect(kept(path))
    assert copied.execute("SELECT hint FROM work_item WHERE id = 1").fetchone() == ("still in the WAL",)
    copied.close()


def test_the_copy_brings_the_old_version_back(path: Path) -> None:
    before = content(path)
    Store.open(path).close()
    shutil.copyfile(kept(path), path)
    assert content(path) == before
    Store.open(path).close()
    assert content(path).version == SCHEMA_VERSION


KILLED = """
import os, signal, sys
from pathlib import Path
from dicom_node import database
where = sys.argv[2]
real = database._statements
def statements(script):
    for number, statement in enumerate(real(script)):
        if where == str(number):
            os.kill(os.getpid(), signal.SIGKILL)
        yield statement
database._statements = statements
if where == "copying":
    database.os.replace = lambda *a: os.kill(os.getpid(), signal.SIGKILL)
if where == "copied":
    copy = database._copy
    database._copy = lambda *a: (copy(*a), os.kill(os.getpid(), signal.SIGKILL))
database.Database(Path(sys.argv[1]))
"""


@pytest.mark.parametrize("where", ["copying", "copied", "0", "1", "5", "20"])
def test_killed_in_mid_migration_the_old_store_is_whole_and_the_next_start_migrates_it(path: Path, where: str) -> None:
    before = content(path)
    done = subprocess.run([sys.executable, "-c", KILLED, str(path), where], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert content(path) == before
    Store.open(path).close()
    after = content(path)
    assert (after.version, after.tables) == (SCHEMA_VERSION, before.tables)
    assert content(kept(path)) == before
    assert not list(path.parent.glob(".*")), "no draft is left"


def test_a_statement_that_fails_leaves_the_old_store_as_it_was(path: Path) -> None:
    before = content(path)
    spoiler = sqlite3.connect(path)
    spoiler.execute("CREATE TABLE audit (id INTEGER)")  # the migration meets a table of that name
    spoiler.commit()
    spoiler.close()
    with pytest.raises(Exception, match="audit"):
        Store.open(path)
    assert content(path) == before


def test_two_processes_that_start_at_once_migrate_it_once(path: Path) -> None:
    command = [
        sys.executable,
        "-c",
        f"from dicom_node.store import Store; from pathlib import Path; Store.open(Path({str(path)!r}))",
    ]
    running = [subprocess.Popen(command, cwd=ROOT) for _ in range(4)]
    assert [process.wait(timeout=120) for process in running] == [0, 0, 0, 0]
    assert content(path).version == SCHEMA_VERSION
    assert content(kept(path)).version == 1


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", 40) as folder:
        yield folder


def test_a_disk_too_full_for_the_copy_is_said_before_anything_is_changed(disk: Path) -> None:
    path = disk / "store.sqlite"
    old_store(path)
    before = content(path)
    with pytest.raises(ConfigError, match=r"needs \d+ MB; \d+ MB are free"):
        Store.open(path)
    assert content(path) == before
    assert names(disk) == ["store.sqlite"]


def test_a_disk_that_fills_up_in_the_middle_leaves_the_old_store_whole(
    disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = disk / "store.sqlite"
    old_store(path, items=2000)
    before = content(path)
    monkeypatch.setattr("dicom_node.database.MIGRATION_BYTES", 0)
    for left in (100_000, 800_000, 1_600_000):
        filler = disk / "filler"
        filler.write_bytes(b"\0" * (shutil.disk_usage(disk).free - left))
        monkeypatch.setattr("dicom_node.database.shutil.disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 10**9))  # type: ignore[attr-defined]
        with suppress(StoreBusy, ConfigError, OSError):
            Store.open(path).close()
            assert left > 100_000, "there is no room for it"
        monkeypatch.undo()
        monkeypatch.setattr("dicom_node.database.MIGRATION_BYTES", 0)
        assert content(path).tables == before.tables
        filler.unlink()
    Store.open(path).close()
    assert content(path).version == SCHEMA_VERSION


def test_a_newer_schema_is_refused_and_the_backup_is_named(path: Path) -> None:
    Store.open(path).close()
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    connection.close()
    with pytest.raises(ConfigError) as caught:
        Store.open(path)
    assert "install the newer version again, or restore the backup made before it" in str(caught.value)
    assert "beside it" not in str(caught.value)
    kept(path).rename(path.with_name(f"store.sqlite.schema-{SCHEMA_VERSION}"))
    with pytest.raises(ConfigError, match=rf"store.sqlite.schema-{SCHEMA_VERSION}, beside it"):
        Store.open(path)


def test_a_copy_is_consistent_while_others_write(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    database = Database(path)
    database.execute("CREATE TABLE pair (a INTEGER, b INTEGER) STRICT")
    writing = (
        "import sqlite3,sys; c=sqlite3.connect(sys.argv[1],timeout=30,isolation_level=None); print('on',flush=True)\n"
        "n=0\n"
        "while True:\n"
        "  n+=1; c.execute('BEGIN IMMEDIATE'); c.execute('INSERT INTO pair VALUES (?,0)',[n]);"
        " c.execute('UPDATE pair SET b=a WHERE a=?',[n]); c.execute('COMMIT')\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", writing, str(path)], stdout=subprocess.PIPE)
    try:
        assert writer.stdout is not None
        writer.stdout.readline()
        for number in range(10):
            database.copy(tmp_path / f"copy{number}")
            copied = sqlite3.connect(f"file:{tmp_path / f'copy{number}'}?mode=ro&immutable=1", uri=True)
            assert copied.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            assert copied.execute("SELECT count(*) FROM pair WHERE a != b").fetchone() == (0,)
            copied.close()
    finally:
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        writer.stdout.close()  # type: ignore[union-attr]
    assert database.well() == []
