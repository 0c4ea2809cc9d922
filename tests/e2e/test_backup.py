"""Backup and restore: consistent while the node works, verified before anything is written, whole after any kill."""

import hashlib
import io
import json
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from config.settings import Settings
from dicom_node.audit_trail import AuditTrail
from dicom_node.backup import MANIFEST, SUMMARY, backup
from dicom_node.cli import app
from dicom_node.database import SCHEMA_VERSION
from dicom_node.demo_pacs import DemoPacs
from dicom_node.restore import BackupDamaged, restore, verify
from dicom_node.spool import RESTORING, Spool
from dicom_node.storage import Cleaner
from dicom_node.store import Store
from dicom_node.workitem import ConfigError, DeliveryState, State
from tests.e2e.node import (
    PROGNODE,
    SETTINGS,
    send_singly,
    serving,
    spool_of,
    store_of,
    write_settings,
)
from tests.kept import PACS, copied_pacs, delivered, exhaustive, study
from tests.paths import ROOT
from tests.road import Road
from tests.small_disk import fill, small_disk
from tests.synthetic import ct_series, save_all

KINDS = ["folder", "tar"]


def content(spool: Path) -> dict[str, str]:
    """Digest of every file that is kept, by its path."""
    kept = (path for name in ("instances", "results", "audit") for path in (spool / name).rglob("*") if path.is_file())
    return {
        str(path.relative_to(spool)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in kept
        if path.name != "lock"
    }


def rows(store: Path) -> dict[str, list[tuple[object, ...]]]:
    connection = sqlite3.connect(f"file:{store}?mode=ro", uri=True)
    try:
        names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return {name: sorted(connection.execute(f"SELECT * FROM {name}"), key=repr) for name in names}
    finally:
        connection.close()


def make(made: Road, target: Path, previous: Path | None = None) -> Path:
    backup(made.store, made.spool, made.settings, target, previous, clock=made.clock)
    return target


@pytest.fixture
def node(tmp_path: Path) -> Road:
    return delivered(tmp_path / "node")


@pytest.fixture(params=KINDS)
def made(request: pytest.FixtureRequest, node: Road, tmp_path: Path) -> Path:
    """A backup, as a folder and as a tar file."""
    return make(node, tmp_path / ("backup.tar" if request.param == "tar" else "backup"))


# -- there and back --------------------------------------------------------------------------------------------


def test_everything_comes_back_and_a_node_goes_on_with_it(node: Road, made: Path, tmp_path: Path) -> None:
    before, kept = rows(node.spool.store), content(node.spool.root)
    done = restore(made, Spool(tmp_path / "new" / "spool"), node.settings)
    assert content(tmp_path / "new" / "spool") == kept
    after = rows(tmp_path / "new" / "spool" / "store.sqlite")
    ours = {"audit"}  # that a backup was made and restored stands there
    assert {name: after[name] for name in after if name not in ours} == {
        name: before[name] for name in before if name not in ours
    }
    assert (done.outlook.to_send, done.outlook.done) == ({}, {PACS: len(node.store.deliveries.of_item(1))})
    with DemoPacs(copied_pacs(tmp_path / "pacs"), PACS, commitment="same") as pacs:
        again = Road(tmp_path / "new", node.settings, node.clock)
        held = len(pacs.objects())
        again.take(*study())
        again.work()
        again.later(90_000.0)
        assert [item.state for item in again.items] == [State.COMPLETED]
        assert len(pacs.objects()) == held


def test_a_backup_is_private_and_says_what_it_is(node: Road, made: Path) -> None:
    summary, entries = verify(made)
    assert summary.files == len(entries) == len(content(node.spool.root)) + 1
    assert (summary.schema, summary.missing) == (SCHEMA_VERSION, 0)
    assert made.stat().st_mode & 0o077 == 0
    if made.is_dir():
        kept = (path for path in made.rglob("*") if path.is_file() and path.name not in (MANIFEST, SUMMARY))
        assert all(path.stat().st_mode & 0o077 == 0 for path in kept)
    newest = node.store.audit.newest(1)[0]
    assert (newest.action, newest.outcome) == ("backup.made", "done")


def test_what_the_backup_before_has_is_linked(node: Road, tmp_path: Path) -> None:
    first = make(node, tmp_path / "first")
    node.take(*ct_series(3, 16, 16, seed=9))
    second = make(node, tmp_path / "second", previous=first)
    summary, _ = verify(second)
    assert summary.linked == 17
    old = next(first.glob("instances/*/*.dcm")).relative_to(first)
    assert (first / old).stat().st_ino == (second / old).stat().st_ino
    shutil.rmtree(first)
    restore(second, Spool(tmp_path / "new" / "spool"), node.settings)
    assert content(tmp_path / "new" / "spool") == content(node.spool.root)


def test_a_file_that_changed_in_the_backup_before_is_not_taken_from_it(node: Road, tmp_path: Path) -> None:
    first = make(node, tmp_path / "first")
    damaged = next(first.glob("instances/*/*.dcm"))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    summary, _ = verify(make(node, tmp_path / "second", previous=first))
    assert summary.linked == 16


def test_a_file_that_the_backup_before_has_lost_is_copied(node: Road, tmp_path: Path) -> None:
    first = make(node, tmp_path / "first")
    next(first.glob("instances/*/*.dcm")).unlink()
    second = make(node, tmp_path / "second", previous=first)
    assert content(second) == content(node.spool.root)


@pytest.mark.parametrize("name", ["backup", "backup.tar"])
def test_an_audit_file_that_was_cut_does_not_stop_a_backup(node: Road, tmp_path: Path, name: str) -> None:
    AuditTrail(node.store, node.spool, node.settings, node.clock).write()
    (file,) = node.spool.audit.glob("audit-*")
    file.write_bytes(file.read_bytes()[:-10])
    verify(make(node, tmp_path / name))


def test_what_was_not_yet_delivered_is_delivered_after_the_restore_and_once_only(node: Road, tmp_path: Path) -> None:
    with DemoPacs(tmp_path / "pacs", PACS, commitment="same") as pacs:
        peers = (replace(node.settings.peers[0], port=pacs.port),)
        node.settings = replace(node.settings, peers=peers)
        for row in node.store.deliveries.of_item(1):
            node.store.deliveries.record(
                row.id, state=DeliveryState.PENDING, final=0, transaction_uid=None, sent_at=None
            )
        node.store._db.execute("UPDATE work_item SET state = 'REPORTED'")
        saved = make(node, tmp_path / "backup")
        node.restart(settings=node.settings)
        node.work()
        first = {each.sop_instance_uid: each.path.read_bytes() for each in pacs.objects()}
        assert first, "the node sent them after the backup was made"
        done = restore(saved, Spool(tmp_path / "new" / "spool"), node.settings)
        assert done.outlook.to_send == {PACS: len(node.store.deliveries.of_item(1))}
        again = Road(tmp_path / "new", node.settings, node.clock)
        again.work()
        assert again.items[0].state is State.COMPLETED
        assert {each.sop_instance_uid: each.path.read_bytes() for each in pacs.objects()} == first


# -- while the node works --------------------------------------------------------------------------------------


def test_backups_of_a_node_at_work_are_each_whole_and_hold_all_that_was_acknowledged(tmp_path: Path) -> None:
    folder = tmp_path / "node"
    write_settings(folder)
    paths = save_all(ct_series(40, 64, 64, seed=9), tmp_path / "ct")
    with serving(folder) as node:
        sender = threading.Thread(target=send_singly, args=(node.port, paths))
        sender.start()
        backups = []
        while sender.is_alive():
            with store_of(folder) as store:
                acknowledged = store._db.rows("SELECT count(*) AS n FROM instance")[0]["n"]
                target = tmp_path / f"backup{len(backups)}"
                backup(store, spool_of(folder), Settings(), target)
            backups.append((target, acknowledged))
        sender.join()
    assert len(backups) >= 2
    for target, acknowledged in backups:
        summary, _ = verify(target)
        assert summary.missing == 0
        copied = Store.of_copy(target / "store.sqlite")
        found = list(copied.inspection.instances())
        copied.close()
        assert len(found) >= acknowledged
        held = Spool(target)
        assert all(held.instance_path(row.sop_instance_uid, row.digest).is_file() for row in found)


def test_nothing_is_removed_while_a_backup_is_made(node: Road) -> None:
    node.clock.now += 900 * 86_400.0
    cleaner = Cleaner(node.store, node.spool, node.settings, node.clock)
    with node.spool.removing(wait=True):
        assert not cleaner.step()
        assert len(content(node.spool.root)) > 17
    node.clock.now += 601
    while cleaner.step():
        pass
    assert not list(node.spool.root.glob("instances/*/*.dcm"))


def test_a_file_that_was_lost_before_is_counted_and_the_rest_is_saved(node: Road, tmp_path: Path) -> None:
    next(node.spool.root.glob("instances/*/*.dcm")).unlink()
    shutil.rmtree(next(node.spool.root.glob("results/*/report")))
    summary, _ = verify(make(node, tmp_path / "backup"))
    assert summary.missing == 2


# -- what is refused -------------------------------------------------------------------------------------------


def refused(source: Path, folder: Path, node: Road, error: type[Exception], words: str) -> None:
    """The restore is refused, and nothing was written."""
    with pytest.raises(error, match=words):
        restore(source, Spool(folder / "spool"), node.settings)
    assert not folder.exists() or not list(folder.rglob("*.*"))


def packed(folder: Path, target: Path) -> Path:
    with tarfile.open(target, "w") as tar:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                tar.add(path, str(path.relative_to(folder)))
    return target


DAMAGE: dict[str, Callable[[Path], object]] = {
    "an image": lambda folder: flip(next(folder.glob("instances/*/*.dcm"))),
    "a result": lambda folder: flip(next(folder.glob("results/*/report/*.dcm"))),
    "the store": lambda folder: flip(folder / "store.sqlite"),
    "the manifest": lambda folder: flip(folder / MANIFEST),
    "a missing image": lambda folder: next(folder.glob("instances/*/*.dcm")).unlink(),
    "a missing store": lambda folder: (folder / "store.sqlite").unlink(),
    "a missing manifest": lambda folder: (folder / MANIFEST).unlink(),
    "an image cut short": lambda folder: cut(next(folder.glob("instances/*/*.dcm"))),
    "no summary": lambda folder: (folder / SUMMARY).unlink(),
    "a summary that is none": lambda folder: (folder / SUMMARY).write_text("[]"),
}


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Road, Path]:
    """A node and its backup, to be copied."""
    folder = tmp_path_factory.mktemp("whole")
    found = delivered(folder / "node")
    return found, make(found, folder / "backup")


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_backup_is_refused_before_anything_is_written(
    whole: tuple[Road, Path], tmp_path: Path, damage: str
) -> None:
    node, backup_of_it = whole
    saved = shutil.copytree(backup_of_it, tmp_path / "backup")
    DAMAGE[damage](saved)
    for source in (saved, packed(saved, tmp_path / "backup.tar")):
        refused(source, tmp_path / "new", node, BackupDamaged, "backup")


def test_a_backup_that_changes_while_it_is_restored_leaves_a_spool_that_no_node_starts_on(
    node: Road, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = make(node, tmp_path / "backup")
    image = next(saved.glob("instances/*/*.dcm"))
    spool = Spool(tmp_path / "new")

    def verified(source: Path) -> object:
        found = verify(source)
        flip(image)
        return found

    monkeypatch.setattr("dicom_node.restore.verify", verified)
    with pytest.raises(OSError, match="has changed while it was restored"):
        restore(saved, spool, node.settings)
    monkeypatch.undo()
    with pytest.raises(ConfigError, match="run prognode restore again"), spool.lock("work"):
        pass
    flip(image)
    restore(saved, spool, node.settings)
    assert content(spool.root) == content(node.spool.root)


def test_a_tar_file_that_was_cut_is_refused(node: Road, tmp_path: Path) -> None:
    saved = make(node, tmp_path / "backup.tar")
    whole = saved.read_bytes()
    for length in (0, 100, len(whole) // 2, len(whole) - 20_000):
        saved.write_bytes(whole[:length])
        refused(saved, tmp_path / "new", node, BackupDamaged, "backup")


def test_a_backup_with_names_that_lead_out_of_the_spool_is_refused(node: Road, tmp_path: Path) -> None:
    saved = make(node, tmp_path / "backup")
    evil = b"owned"
    for name in ("../../evil", "/tmp/evil", "instances/../../evil", "results/x/report/y", "store.sqlite-wal"):
        manifest = (saved / MANIFEST).read_bytes()
        line = {"path": name, "size": len(evil), "sha256": hashlib.sha256(evil).hexdigest()}
        changed = manifest + json.dumps(line).encode() + b"\n"
        summary = json.loads((saved / SUMMARY).read_text()) | {"manifest": hashlib.sha256(changed).hexdigest()}
        target = tmp_path / "evil.tar"
        with tarfile.open(target, "w") as tar:
            for path in sorted(saved.rglob("*")):
                if path.is_file() and path.name not in (MANIFEST, SUMMARY):
                    tar.add(path, str(path.relative_to(saved)))
            for each, data in ((name, evil), (MANIFEST, changed), (SUMMARY, json.dumps(summary).encode())):
                info = tarfile.TarInfo(each)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        refused(target, tmp_path / "new", node, BackupDamaged, "names a file that no backup has")


def test_a_newer_schema_or_format_is_refused_and_says_what_can_restore_it(node: Road, tmp_path: Path) -> None:
    saved = make(node, tmp_path / "backup")
    summary = json.loads((saved / SUMMARY).read_text())
    (saved / SUMMARY).write_text(json.dumps(summary | {"schema": SCHEMA_VERSION + 1, "version": "9.9"}))
    refused(saved, tmp_path / "new", node, ConfigError, "restore it with Prognode 9.9 or newer")
    (saved / SUMMARY).write_text(json.dumps(summary | {"format": 2}))
    refused(saved, tmp_path / "new", node, ConfigError, "made by a newer Prognode")


def test_a_spool_that_is_not_empty_is_refused(node: Road, made: Path, tmp_path: Path) -> None:
    before = content(node.spool.root)
    with pytest.raises(ConfigError, match="is not empty"):
        restore(made, node.spool, node.settings)
    assert content(node.spool.root) == before
    held = Spool(tmp_path / "held")
    held.create()
    held.quarantine.mkdir()
    (held.quarantine / "precious.dcm").write_bytes(b"acknowledged")
    with pytest.raises(ConfigError, match="is not empty"):
        restore(made, held, node.settings)


def test_a_spool_that_a_node_uses_is_refused(node: Road, made: Path, tmp_path: Path) -> None:
    empty = Spool(tmp_path / "new")
    empty.create()
    for name in ("receive", "work", "run"):
        with empty.lock(name), pytest.raises(ConfigError, match="uses this spool"):
            restore(made, empty, node.settings)


@pytest.mark.parametrize("where", ["spool/backup", "."])
def test_a_target_that_cannot_be_is_refused(node: Road, tmp_path: Path, where: str) -> None:
    target = node.folder / where
    with pytest.raises(ConfigError, match=r"lies in the spool|exists already"):
        make(node, target)
    with pytest.raises(ConfigError, match="no such folder"):
        make(node, tmp_path / "absent" / "backup")


def test_a_target_that_a_link_leads_into_the_spool_is_refused(node: Road, tmp_path: Path) -> None:
    (tmp_path / "disk").symlink_to(node.spool.root)
    with pytest.raises(ConfigError, match="lies in the spool"):
        make(node, tmp_path / "disk" / "backup")


def test_a_second_backup_to_the_same_target_leaves_the_first_whole(node: Road, tmp_path: Path) -> None:
    def back_up() -> None:
        store = Store.open(node.spool.store)
        try:
            backup(store, node.spool, node.settings, tmp_path / "backup")
        finally:
            store.close()

    with ThreadPoolExecutor(2) as threads, node.spool.removing(wait=True):
        both = [threads.submit(back_up) for _ in range(2)]
        assert not wait(both, timeout=0.5).done  # each stands before the lock
    with pytest.raises(ConfigError, match="exists already"):
        [one.result() for one in both]
    summary, entries = verify(tmp_path / "backup")
    assert (summary.missing, len(entries)) == (0, summary.files)


# -- kills and full disks --------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys
from pathlib import Path
from config.settings import Settings
from dicom_node import backup, restore
from dicom_node.spool import Spool
from dicom_node.store import Store
what, where, source, target = sys.argv[1:5]
die = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)
module = backup if what == "backup" else restore
if where.isdigit():
    name = "_copy" if what == "backup" else "_check"
    real, calls = getattr(module, name), []
    def counted(*a):
        calls.append(1)
        if len(calls) == int(where):
            die()
        return real(*a)
    setattr(module, name, counted)
elif where == "synced":
    module.os.sync = die
elif where == "store":
    Path.rename = die
elif where == "mark":
    Path.unlink = lambda self, **k: die() if self.name == restore.RESTORING else os.unlink(self)
elif where == "marked":
    restore._clear = die
if what == "backup":
    spool = Spool(Path(source))
    backup.backup(Store.open(spool.store), spool, Settings(), Path(target))
else:
    restore.restore(Path(source), Spool(Path(target)), Settings())
"""


def killed(what: str, where: str, source: Path, target: Path) -> None:
    command = [sys.executable, "-c", KILLED, what, where, str(source), str(target)]
    done = subprocess.run(command, cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL, where


@pytest.mark.parametrize("where", ["9", "store", *exhaustive("1", "synced")])
def test_a_backup_that_is_killed_leaves_nothing_under_its_name_and_the_next_one_is_whole(
    node: Road, tmp_path: Path, where: str
) -> None:
    before = content(node.spool.root)
    target = tmp_path / "backup"
    killed("backup", where, node.spool.root, target)
    assert not target.exists()
    verify(make(node, target))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backup", "node"]
    after = content(node.spool.root)
    assert {name: after[name] for name in before if name.startswith(("inst", "res"))} == {
        name: before[name] for name in before if name.startswith(("inst", "res"))
    }
    assert not list(node.spool.root.glob(".backup*"))


@pytest.mark.parametrize("where", ["30", "store", "mark", *exhaustive("marked", "25", "40", "synced")])
def test_a_restore_that_is_killed_is_no_spool_to_start_on_and_the_next_one_is_whole(
    node: Road, tmp_path: Path, where: str
) -> None:
    saved = make(node, tmp_path / "backup")
    folder = tmp_path / "new"
    write_settings(folder)
    _, entries = verify(saved)
    number = str(len(entries) + int(where) - 24) if where.isdigit() else where  # all are read once to be verified
    killed("restore", number, saved, folder / "spool")
    assert (folder / "spool" / RESTORING).is_file()
    with pytest.raises(ConfigError, match="run prognode restore again"), spool_of(folder).lock("receive"):
        pass
    restore(saved, spool_of(folder), node.settings)
    assert content(folder / "spool").keys() == content(node.spool.root).keys()
    assert not (spool_of(folder).root / RESTORING).exists()
    with store_of(folder) as store:
        assert [item.state for item in store.items()] == [State.COMPLETED]
        assert store.inspection.well() == []


def test_a_node_does_not_start_on_half_a_restore_and_does_on_a_whole_one(node: Road, tmp_path: Path) -> None:
    saved = make(node, tmp_path / "backup")
    folder = tmp_path / "new"
    write_settings(folder)
    killed("restore", "store", saved, folder / "spool")
    command = [str(PROGNODE), "serve", "--config", str(folder / SETTINGS)]
    started = subprocess.run(command, capture_output=True, text=True, check=False)
    assert started.returncode == 78
    assert "run prognode restore again" in started.stderr
    done = prognode("restore", saved, "--config", folder / SETTINGS)
    assert done.exit_code == 0, done.stderr
    assert "restored" in done.stdout
    with spool_of(folder).lock("receive"), spool_of(folder).lock("work"):
        pass


@pytest.mark.parametrize("name", ["backup", "backup.tar"])
def test_a_full_disk_leaves_no_half_backup(node: Road, tmp_path: Path, name: str) -> None:
    with small_disk(tmp_path / "disk", 8) as disk:
        for left in (0, 300_000, 1_500_000):
            filler = fill(disk, left)
            with pytest.raises(OSError, match="No space left"):
                make(node, disk / name)
            filler.unlink()
            assert [path.name for path in disk.iterdir()] == []
    newest = node.store.audit.newest(1)[0]
    assert (newest.action, newest.outcome) == ("backup.made", "failed")


def test_a_disk_too_small_for_the_restore_is_said_before_anything_is_written(
    node: Road, made: Path, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", 20) as disk, pytest.raises(ConfigError, match="MB are needed"):
        restore(made, Spool(disk / "spool"), node.settings)
    assert not list((tmp_path / "disk").rglob("*.dcm"))


# -- the commands ----------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    delivered(tmp_path / "node").store.close()
    write_settings(tmp_path / "node")
    return tmp_path


def prognode(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])


def test_the_commands_say_what_they_did_and_what_is_sent_again(folder: Path) -> None:
    done = prognode("backup", folder / "backup", "--config", folder / "node" / SETTINGS)
    assert done.exit_code == 0, done.stderr
    assert "files" in done.stdout
    again = prognode("backup", folder / "backup", "--config", folder / "node" / SETTINGS)
    assert (again.exit_code, "is there already; give a new name" in again.stderr) == (73, True)
    write_settings(folder / "new")
    dry = prognode("restore", folder / "backup", "--dry-run", "--config", folder / "new" / SETTINGS)
    assert (dry.exit_code, dry.stdout[:2]) == (0, "ok")
    assert not (folder / "new" / "spool").exists()
    done = prognode("restore", folder / "backup", "--config", folder / "new" / SETTINGS)
    assert done.exit_code == 0, done.stderr
    assert "objects are not sent again" in done.stdout
    assert "Send those studies again" in done.stdout
    assert str(study()[0].PatientID) not in done.stdout
    flip(next((folder / "backup").glob("instances/*/*.dcm")))
    bad = prognode("restore", folder / "backup", "--config", folder / "new" / SETTINGS)
    assert isinstance(bad.exception, ConfigError)
    shutil.rmtree(folder / "new" / "spool")
    bad = prognode("restore", folder / "backup", "--config", folder / "new" / SETTINGS)
    assert bad.exit_code == 65
    assert "damaged" in bad.stderr
    assert "nothing was written" in bad.stderr
