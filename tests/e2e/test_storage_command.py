"""`prognode storage`: what it prints is what is there, and what it says would go is what goes."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from dicom_node.storage_report import FOR_EVER, YOUNG, Amount, report
from tests.e2e.node import PROGNODE, SETTINGS, write_settings
from tests.kept import DAY, delivered, study
from tests.road import Road
from tests.synthetic import ct_series


def storage(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [str(PROGNODE), "storage", *arguments, "--config", str(folder / SETTINGS)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def as_json(folder: Path) -> dict[str, Any]:
    done = storage(folder, "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return {kind["name"]: kind for kind in found["kinds"]} | {"disk": found["disk"]}


def kept(found: dict[str, Any]) -> dict[str, Any]:
    """All but the disk, which others fill too, and SQLite's files: who opens or closes the store moves its log."""
    return {name: found[name] for name in found if name not in ("disk", "store")}


@pytest.fixture
def node(tmp_path: Path) -> Path:
    """A spool with a delivered study, long ago, and one that waits for a contour."""
    made = delivered(tmp_path)
    other = ct_series(12, 32, 32, seed=5)
    made.take(*other)
    made.worker.step_plan()
    made.store.close()
    write_settings(tmp_path, storage={"warn_free_bytes": 0, "warn_free_percent": 0.0, "refuse_free_percent": 0.0})
    return tmp_path


def test_it_counts_what_is_there_and_says_why_it_stays(node: Path) -> None:
    files = list(node.glob("spool/instances/*/*.dcm"))
    found = as_json(node)
    assert found["disk"]["state"] == "ok"
    received = found["received"]
    assert received["all"] == {"objects": 29, "bytes": sum(path.stat().st_size for path in files)}
    assert received["goes"]["objects"] == 17
    assert {why: amount["objects"] for why, amount in received["stays"].items()} == {
        "waits for a contour, and nothing was made of it yet": 12
    }
    assert (found["results"]["all"]["objects"], found["results"]["goes"]["objects"]) == (1, 1)
    assert found["events"]["stays"].keys() == {FOR_EVER}
    assert found["store"]["all"]["objects"] >= 1


def test_what_would_go_is_what_goes(node: Path) -> None:
    before = kept(as_json(node))
    dry = storage(node, "clean", "--dry-run")
    assert dry.stdout.splitlines()[0].startswith("would remove 17 received")
    assert kept(as_json(node)) == before
    done = storage(node, "clean")
    assert done.returncode == 0, done.stderr
    assert "removed 1 received" in done.stdout
    after = as_json(node)
    assert after["received"]["all"]["objects"] == 12
    assert after["results"]["all"]["objects"] == 0
    assert sum(kind["goes"]["objects"] for name, kind in after.items() if name != "disk") == 0
    assert storage(node, "clean").stdout.splitlines()[:-1] == []
    assert storage(node, "clean", "--dry-run").stdout.startswith("nothing would be removed now")


def test_the_table_is_for_people_and_names_nobody(node: Path) -> None:
    done = storage(node)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0].startswith("disk ok: ")
    assert lines[2].split()[:2] == ["received", "29"]
    assert "12 (" in done.stdout
    assert str(study()[0].PatientID) not in done.stdout
    assert max(map(len, lines)) < 160


def test_folders_of_jobs_that_come_and_go_are_no_kept_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: Road = delivered(tmp_path)
    jobs, iterdir = made.spool.root / "jobs", Path.iterdir
    for name in (".next-1", "0" * 64, "1" * 64):
        (jobs / name / "in").mkdir(parents=True)

    def listed(folder: Path) -> list[Path]:
        found = list(iterdir(folder))
        if folder == jobs:
            shutil.rmtree(jobs / ("0" * 64))
        return found

    monkeypatch.setattr(Path, "iterdir", listed)
    found = {kind.name: kind for kind in report(made.store, made.spool, made.settings, made.clock).kinds}
    assert found["jobs"].stays == {YOUNG: Amount(1, 0)}


def test_a_young_study_is_said_to_be_young(tmp_path: Path) -> None:
    made: Road = delivered(tmp_path, days=3)
    found = {kind.name: kind for kind in report(made.store, made.spool, made.settings, made.clock).kinds}
    assert found["received"].stays.keys() == found["results"].stays.keys() == {YOUNG}
    made.clock.now += 100 * DAY
    found = {kind.name: kind for kind in report(made.store, made.spool, made.settings, made.clock).kinds}
    assert found["received"].goes.objects == 17
    assert found["results"].stays.keys() == {YOUNG}


def test_a_disk_below_a_watermark_is_said_first(node: Path) -> None:
    write_settings(node, storage={"warn_free_percent": 99.9, "refuse_free_percent": 0.0})
    assert storage(node).stdout.startswith("disk LOW: ")
    write_settings(node, storage={"warn_free_percent": 99.9, "refuse_free_percent": 99.9})
    assert storage(node).stdout.startswith("disk FULL: nothing more is taken: ")


def test_without_a_store_it_says_where_it_looked(tmp_path: Path) -> None:
    write_settings(tmp_path)
    done = storage(tmp_path)
    assert done.returncode == 66
    assert "no store here" in done.stderr
