"""The audit trail: each line is chained to the one before; whatever is done to a file is found, and where."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from config.keeping import AuditTrail as AuditSettings
from config.settings import Settings
from dicom_node.audit import GENESIS, AuditEntry
from dicom_node.audit_trail import AuditTrail, digest_of, trail_path
from dicom_node.audit_verify import TrailFinding, lines_of, verify
from dicom_node.cli import app
from dicom_node.identity import Identity
from dicom_node.spool import Spool
from dicom_node.store import Store
from tests.audit_schema import check

Lines = list[bytes]


class Place:
    """A spool with its store, and a writer of its trail."""

    def __init__(self, folder: Path, rotate_bytes: int = 10_000_000) -> None:
        self.spool = Spool(folder / "spool")
        self.spool.create()
        self.settings = replace(Settings(), audit=AuditSettings(rotate_bytes=rotate_bytes))
        self.store = Store.open(self.spool.store)
        self.now = 1_790_000_000.0

    @property
    def trail(self) -> AuditTrail:
        return AuditTrail(self.store, self.spool, self.settings, lambda: self.now)

    def add(self, count: int = 1) -> None:
        for number in range(count):
            self.store.audit.add(AuditEntry(self.now, f"user{number}", "web", "study.opened", study_instance_uid="1.2"))

    def written(self, count: int) -> None:
        self.add(count)
        while self.trail.write():
            pass

    @property
    def path(self) -> Path:
        return trail_path(self.spool.audit, 1)

    def findings(self) -> list[TrailFinding]:
        return list(verify(self.spool.audit, self.store.audit))

    def change(self, change: Callable[[Lines], Lines]) -> None:
        self.path.write_bytes(b"".join(change(self.path.read_bytes().splitlines(keepends=True))))


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_each_line_is_an_audit_message_and_names_the_line_before(place: Place) -> None:
    place.store.patients.received("1.2", Identity(patient_id="4711", patient_name="Doe^Jane"), 1.0)
    place.written(3)
    previous = GENESIS
    for number, raw in enumerate(place.path.read_bytes().splitlines(), 1):
        line = json.loads(raw)
        assert (line["line"], line["previous"]) == (number, previous)
        message = check(line["message"])
        assert message.findall("ParticipantObjectIdentification")[1].get("ParticipantObjectID") == "4711"
        previous = digest_of(raw)
    assert place.findings() == []
    assert lines_of(place.spool.audit, place.store.audit) == 3
    assert place.path.stat().st_mode & 0o777 == 0o600


def test_nothing_to_write_is_no_write(place: Place) -> None:
    assert not place.trail.write()
    assert not place.path.exists()
    assert place.findings() == []


def test_a_new_file_goes_on_with_the_chain(tmp_path: Path) -> None:
    place = Place(tmp_path, rotate_bytes=2000)
    for _ in range(6):
        place.written(1)
    files = place.store.audit.files()
    assert [(file.first, file.last) for file in files] == [(1, 2), (3, 4), (5, 6)]
    first = json.loads(trail_path(place.spool.audit, 3).read_bytes().splitlines()[0])
    assert first["previous"] == files[0].digest
    assert place.findings() == []


# -- what somebody may do to a file, and what is said of it ----------------------------------------------------


def altered(lines: Lines, place: int) -> Lines:
    return [*lines[:place], lines[place].replace(b"user", b"nobody"), *lines[place + 1 :]]


def forged(lines: Lines, place: int) -> Lines:
    """A line altered, and the whole chain after it made again, as someone would who knows how it is made."""
    made, previous = lines[:place], digest_of(lines[place - 1])
    for raw in altered(lines, place)[place:]:
        line = json.loads(raw) | {"previous": previous}
        made.append(json.dumps(line, ensure_ascii=False, separators=(",", ":")).encode() + b"\n")
        previous = digest_of(made[-1])
    return made


TAMPERING: dict[str, tuple[Callable[[Lines], Lines], str, str]] = {
    "one line altered": (lambda ls: altered(ls, 4), "altered", "line 5 is"),
    "the first line altered": (lambda ls: altered(ls, 0), "altered", "line 1 is"),
    "the last line altered": (lambda ls: altered(ls, 9), "altered", "line 10 is"),
    "altered and the chain made again": (lambda ls: forged(ls, 4), "altered", "lines 5 to 10 are"),
    "a blank put into a line": (lambda ls: [*ls[:2], ls[2].replace(b"{", b"{ ", 1), *ls[3:]], "altered", "line 3 is"),
    "a line made unreadable": (lambda ls: [*ls[:2], b"\x00\xff\n", *ls[3:]], "altered", "place 3"),
    "the last line made unreadable": (lambda ls: [*ls[:9], b"{}\n"], "altered", "place 10"),
    "one line removed": (lambda ls: ls[:4] + ls[5:], "removed", "line 5 is"),
    "several lines removed": (lambda ls: ls[:2] + ls[6:], "removed", "lines 3 to 6 are"),
    "the first line removed": (lambda ls: ls[1:], "removed", "line 1 is"),
    "the end cut off": (lambda ls: ls[:7], "cut", "after line 7; lines 8 to 10 are"),
    "the end cut off within a line": (lambda ls: [*ls[:9], ls[9][:50]], "altered", "place 10"),
    "all of it cut off": (lambda ls: [], "cut", "lines 1 to 10 are"),
    "the last line feed cut off": (lambda ls: [*ls[:9], ls[9][:-1]], "altered", "bytes"),
    "a line put in": (lambda ls: [*ls[:4], ls[7], *ls[4:]], "inserted", "line 8 stands there 2 times"),
    "a foreign line put in": (lambda ls: [*ls[:4], b'{"hello":"world"}\n', *ls[4:]], "inserted", "place 5"),
    "a line put behind the end": (lambda ls: [*ls, ls[3]], "inserted", "line 4 stands there 2 times"),
    "a foreign line put behind the end": (lambda ls: [*ls, b"{}\n"], "inserted", "place 11"),
    "two lines swapped": (lambda ls: [*ls[:3], ls[4], ls[3], *ls[5:]], "reordered", "line 4 stands after line 5"),
    "all lines turned round": (lambda ls: ls[::-1], "reordered", "line 9 stands after line 10"),
}


@pytest.mark.parametrize("name", TAMPERING)
def test_what_was_done_to_the_file_is_found_and_where(place: Place, name: str) -> None:
    change, kind, words = TAMPERING[name]
    place.written(10)
    assert place.findings() == []
    place.change(change)
    found = place.findings()
    assert [each for each in found if each.kind == kind and words in each.text], found
    assert all(each.is_tampering and each.file == place.path.name for each in found)


def test_any_single_byte_that_changes_is_found(place: Place) -> None:
    place.written(4)
    whole = place.path.read_bytes()
    chance = random.Random(7)
    for _ in range(300):
        position, byte = chance.randrange(len(whole)), chance.randrange(256)
        if whole[position] == byte:
            continue
        place.path.write_bytes(whole[:position] + bytes([byte]) + whole[position + 1 :])
        assert any(each.is_tampering for each in place.findings()), (position, byte)


def test_a_file_that_is_gone_or_unknown_is_named(tmp_path: Path) -> None:
    place = Place(tmp_path, rotate_bytes=500)
    for _ in range(3):
        place.written(1)
    trail_path(place.spool.audit, 2).rename(trail_path(place.spool.audit, 7))
    assert [(each.kind, each.file) for each in place.findings()] == [
        ("unknown file", "audit-000000000007.jsonl"),
        ("missing file", "audit-000000000002.jsonl"),
    ]


def test_an_anchor_that_somebody_else_kept_finds_what_a_changed_store_hides(place: Place) -> None:
    place.written(5)
    kept = place.store.audit.digests(1, 5)
    place.change(lambda lines: forged(lines, 2))
    lines = place.path.read_bytes().splitlines()
    file = place.store.audit.open_file()
    place.store._db.execute("DELETE FROM audit")  # an intruder with the rights of the service
    place.store.audit.written(replace(file, digest=digest_of(lines[-1]), bytes=place.path.stat().st_size), [])
    assert place.findings() == []
    found = list(verify(place.spool.audit, place.store.audit, {4: kept[4]}))
    assert [(each.kind, each.text) for each in found] == [("altered", "line 4 is not what was written")]


def test_an_anchor_behind_the_end_says_that_the_trail_was_cut_off(place: Place) -> None:
    place.written(3)
    (found,) = verify(place.spool.audit, place.store.audit, {2: place.store.audit.digests(2, 2)[2], 99_999: "0" * 64})
    assert (found.kind, found.is_tampering) == ("cut", True)
    assert found.text == "cut off before line 99999: it was written, and the trail has 3 lines"


def test_an_anchor_of_a_line_that_retention_removed_is_said_to_be_unverifiable(tmp_path: Path) -> None:
    place = Place(tmp_path, rotate_bytes=1)
    for _ in range(2):
        place.written(1)
    assert place.trail.remove_old(place.now + 1, None)
    (found,) = verify(place.spool.audit, place.store.audit, {1: "0" * 64})
    assert (found.kind, found.is_tampering) == ("unverifiable", False)
    assert "line 1 cannot be held against its anchor" in found.text


WRONG = (
    "x",
    "1:zz",
    "1:",
    ":" + "a" * 64,
    "0:" + "a" * 64,
    "-1:" + "a" * 64,
    "9" * 30 + ":" + "a" * 64,
    "1:" + "a" * 65,
)


@pytest.mark.parametrize("anchor", WRONG)
def test_an_anchor_that_is_none_is_wrong_use(place: Place, anchor: str) -> None:
    done = ran(place, "audit", "verify", "--anchor", anchor)
    assert (done.exit_code, "write LINE:SHA256" in done.stderr) == (os.EX_USAGE, True)


def test_a_trail_that_was_cut_off_ends_the_command_with_1(place: Place) -> None:
    place.written(2)
    done = ran(place, "audit", "verify", "--anchor", f"128:{'a' * 64}")
    assert (done.exit_code, done.stdout.startswith("cut ")) == (1, True)
    twice = ran(place, "audit", "verify", "--anchor", f"1:{'a' * 64}", "--anchor", f"1:{'b' * 64}")
    assert twice.exit_code == os.EX_USAGE


@pytest.mark.parametrize("option", ["--from", "--to"])
@pytest.mark.parametrize("day", ["0001-01-01", "9999-12-31T23:59:59-14:00"])
def test_an_export_from_the_first_day_or_to_the_last_is_one(place: Place, option: str, day: str) -> None:
    place.written(1)
    done = ran(place, "audit", "export", option, day)
    assert (done.exit_code, done.exception) == (0, None)
    assert len(done.stdout.splitlines()) == int((option, day[0]) in (("--from", "0"), ("--to", "9")))


def ran(place: Place, *arguments: str) -> Result:
    variables = {"PROGNODE_NODE__SPOOL": str(place.spool.root)}
    return CliRunner().invoke(app, list(arguments), env=variables)


def test_the_end_of_the_chain_becomes_an_entry_of_its_own(place: Place) -> None:
    place.trail.anchor()
    assert not place.trail.write(), "an empty trail has no end"
    place.written(2)
    place.trail.anchor()
    place.trail.anchor()
    place.written(0)
    lines = [json.loads(raw) for raw in place.path.read_bytes().splitlines()]
    assert len(lines) == 3, "an end that is an anchor already needs none"
    details = check(lines[2]["message"]).findall("ParticipantObjectIdentification/ParticipantObjectDetail")
    assert [each.get("type") for each in details] == ["line", "sha256"]
    assert place.findings() == []


# -- crashes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("left", [1, 40, 10_000])
def test_a_crash_in_mid_write_is_told_from_tampering_and_written_again(place: Place, left: int) -> None:
    place.written(3)
    before = place.path.read_bytes()
    place.add(4)
    place.store.audit.written = lambda *_: None  # type: ignore[method-assign]  # the node ends before it records
    place.trail.write()
    del place.store.audit.written  # type: ignore[method-assign]
    torn = place.path.read_bytes()[: len(before) + left]
    place.path.write_bytes(torn)
    assert [(each.kind, each.is_tampering) for each in place.findings()] == [("unfinished", False)]
    place.written(0)
    assert place.findings() == []
    assert lines_of(place.spool.audit, place.store.audit) == 7
    assert place.path.read_bytes().startswith(before)


WRITER = """
import sys, time
from pathlib import Path
from tests.unit.test_audit_trail import Place
place = Place(Path(sys.argv[1]), rotate_bytes=20_000)
print("ready", flush=True)
while True:
    place.add(3)
    place.trail.write()
"""


@pytest.mark.exhaustive
def test_killed_at_any_moment_it_loses_no_entry_and_leaves_no_sign_of_tampering(tmp_path: Path) -> None:
    chance = random.Random(11)
    for _ in range(12):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        time.sleep(chance.uniform(0.02, 0.4))
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        place = Place(tmp_path, rotate_bytes=20_000)
        assert not [each for each in place.findings() if each.is_tampering]
        place.store.close()
    place = Place(tmp_path, rotate_bytes=20_000)
    place.written(0)
    assert place.findings() == []
    (rows,) = place.store._db.rows("SELECT count(*) AS n, count(DISTINCT line) AS lines, max(line) AS last FROM audit")
    assert rows["n"] == rows["lines"] == rows["last"] == lines_of(place.spool.audit, place.store.audit)
    assert rows["n"] > 30


def test_a_file_that_was_cut_is_left_as_it_is_and_the_chain_goes_on_beside_it(place: Place) -> None:
    place.written(4)
    place.change(lambda lines: lines[:2])
    place.written(1)
    assert [file.first for file in place.store.audit.files()] == [1, 5]
    assert [each.kind for each in place.findings()] == ["cut"]
    newest = place.store.audit.newest(1)[0]
    assert (newest.action, newest.outcome) == ("audit.damaged", "failed")


def test_a_full_disk_keeps_the_entries_in_the_store(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.written(2)
    place.add(2)
    real = os.fsync

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        place.trail.write()
    monkeypatch.setattr(os, "fsync", real)
    assert len(place.store.audit.unwritten()) == 2
    place.written(0)
    assert place.findings() == []
    assert lines_of(place.spool.audit, place.store.audit) == 4


# -- retention -------------------------------------------------------------------------------------------------


def test_old_files_go_once_the_collector_has_them_and_the_rest_stays_whole(tmp_path: Path) -> None:
    place = Place(tmp_path, rotate_bytes=500)
    for _ in range(4):
        place.written(1)
        place.now += 86_400
    day = 86_400
    assert not place.trail.remove_old(place.now - 30 * day, None), "none is old enough"
    assert not place.trail.remove_old(place.now - 2.5 * day, 0), "the collector has none of it"
    assert place.trail.remove_old(place.now - 2.5 * day, 1)
    assert place.trail.remove_old(place.now - 2.5 * day, None)
    assert not place.trail.remove_old(place.now - 2.5 * day, None)
    assert [file.first for file in place.store.audit.files()] == [3, 4]
    assert place.findings() == []
    trail_path(place.spool.audit, 3).unlink()
    assert [each.kind for each in place.findings()] == ["missing file"]


@pytest.mark.parametrize("step", ["unlink", "forget"])
def test_a_crash_while_an_old_file_is_removed_does_not_look_like_a_loss(tmp_path: Path, step: str) -> None:
    place = Place(tmp_path, rotate_bytes=500)
    for _ in range(3):
        place.written(1)
    place.store.audit.mark_removed(1)
    if step == "forget":
        trail_path(place.spool.audit, 1).unlink()
    assert place.findings() == []
    assert place.trail.remove_old(0.0, None), "it is finished, however old it is"
    assert [file.first for file in place.store.audit.files()] == [2, 3]
    assert place.findings() == []


def test_two_writers_at_once_make_one_chain(place: Place) -> None:
    with place.trail._locked() as ours:
        assert ours
        place.add(1)
        assert not place.trail.write(), "the other one does it"
    place.written(0)
    assert place.findings() == []


def test_a_trail_that_is_being_written_is_no_finding(tmp_path: Path) -> None:
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        place = Place(tmp_path, rotate_bytes=20_000)
        for _ in range(25):
            assert not [each for each in place.findings() if each.is_tampering]
            time.sleep(0.02)
    finally:
        writer.kill()
        writer.wait()
        writer.stdout.close()  # type: ignore[union-attr]
