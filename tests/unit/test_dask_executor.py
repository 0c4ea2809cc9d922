"""Executor `dask` without a cluster: settings, what travels, what a worker refuses, what the node takes from it."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.identity import VERSION
from config.job import Dask, Job
from config.settings import SettingsError, parse
from dicom_node.executors import dask as node_side
from dicom_node.executors import parcel, process, remote
from dicom_node.executors.contract import GOLDEN_SECONDS, Ended, NotStarted
from dicom_node.executors.dask import Cluster, DaskExecutor
from dicom_node.executors.sandbox import Isolation

KEY = "a" * 64
NOWHERE = Dask("tcp://127.0.0.1:9")


# -- settings --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dask", "said"),
    [
        ({"scheduler": "tcp://10.1.2.3:8786"}, "without TLS"),
        ({"scheduler": "tls://10.1.2.3:8786"}, "certificate, private_key and ca"),
        ({"scheduler": ""}, "tls://HOST:PORT"),
        ({"scheduler": "tls://dask"}, "tls://HOST:PORT"),
        ({"scheduler": "tls://dask:port"}, "tls://HOST:PORT"),
        ({"scheduler": "inproc://x:1"}, "tls://HOST:PORT"),
        ({"scheduler": "tcp://127.0.0.1:1", "resources": ["gpu"]}, "NAME=NUMBER"),
        ({"scheduler": "tcp://127.0.0.1:1", "resources": ["gpu=-1"]}, "NAME=NUMBER"),
        ({"schedular": "tcp://127.0.0.1:1"}, "did you mean 'scheduler'"),
    ],
)
def test_a_cluster_that_cannot_be_used_or_that_anybody_may_use_is_refused(dask: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        parse({"job": {"executor": "dask", "dask": dask}}, Path())


@pytest.mark.parametrize(
    "dask",
    [
        {"scheduler": "tcp://127.0.0.1:8786"},
        {"scheduler": "tcp://10.1.2.3:8786", "insecure": True},
        {"scheduler": "tls://dask:8786", "certificate": "a", "private_key": "b", "ca": "c"},
    ],
)
def test_loopback_tls_and_what_is_named_insecure_are_taken(dask: dict[str, Any]) -> None:
    assert parse({"job": {"executor": "dask", "dask": dask}}, Path()).job.dask.scheduler == dask["scheduler"]


def test_a_cluster_without_tls_is_said_loudly(caplog: pytest.LogCaptureFixture) -> None:
    DaskExecutor(Job(executor="dask", dask=NOWHERE))
    assert "job.cluster_open" in caplog.text


def test_nothing_of_dask_is_imported_where_a_child_process_runs_the_jobs() -> None:
    code = "import sys, dicom_node.job, dicom_node.executors.dask, dicom_node.executors.remote; print(*sys.modules)"
    said = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, check=True, text=True).stdout
    assert {name.partition(".")[0] for name in said.split()}.isdisjoint({"dask", "distributed", "tornado"})


# -- parcels ---------------------------------------------------------------------------------------------------


@given(st.dictionaries(st.text(max_size=8), st.integers() | st.text(max_size=8)), st.lists(st.binary(max_size=40)))
def test_what_is_packed_comes_out_again(header: dict[str, Any], files: list[bytes]) -> None:
    assert parcel.opened(parcel.packed(header, files), sum(map(len, files))) == (header, files)


@given(st.data())
def test_a_changed_parcel_is_another_or_none_but_no_crash(data: st.DataObject) -> None:
    whole = bytearray(parcel.packed({"exit_code": 0, "files": ["result.json"]}, [b"{}", b"log"]))
    for _ in range(data.draw(st.integers(0, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(whole[: data.draw(st.integers(0, len(whole)))])
    try:
        header, files = parcel.opened(cut, 100)
    except parcel.Unreadable:
        return
    assert isinstance(header, dict)
    assert sum(map(len, files)) <= 100


@pytest.mark.parametrize("given", [None, {"exit_code": 0}, b"", b"pickle", parcel.MAGIC + b"\xff" * 8])
def test_what_is_no_parcel_is_none(given: object) -> None:
    with pytest.raises(parcel.Unreadable):
        parcel.opened(given, 100)


def test_a_parcel_of_more_bytes_than_a_job_may_leave_is_not_taken() -> None:
    with pytest.raises(parcel.Unreadable, match="10 are the most"):
        parcel.opened(parcel.packed({}, [b"x" * 11]), 10)


# -- the worker's side -----------------------------------------------------------------------------------------


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A worker's machine without a sandbox; its job says which files it has seen. No golden case."""
    monkeypatch.setattr(remote, "_home", lambda: tmp_path / "worker")
    monkeypatch.setattr(remote, "_isolation", lambda: Isolation((), (), ("no network",)))
    monkeypatch.setattr(remote, "_prove", lambda *_: None)

    def run(folder_in: Path, folder_out: Path, limits: Job, isolation: Isolation) -> Ended:
        found = sorted(path.relative_to(folder_in).as_posix() for path in folder_in.rglob("*") if path.is_file())
        (folder_out / "result.json").write_text(json.dumps(found))
        (folder_out.parent / process.LOG_FILE).write_text("said")
        return Ended(0)

    monkeypatch.setattr(process, "run", run)
    return tmp_path / "worker"


def request(files: dict[str, bytes], *, sent: bool = True, **more: Any) -> bytes:
    limits = {name: value for name, value in asdict(Job()).items() if name in remote.LIMITS}
    listed = [{"name": n, "sha256": hashlib.sha256(content).hexdigest(), "sent": sent} for n, content in files.items()]
    header = {"version": VERSION, "limits": limits, "files": listed, **more}
    return parcel.packed(header, [*files.values()] if sent else [])


def test_a_bundle_travels_once_and_nothing_of_a_patient_stays(machine: Path) -> None:
    files = {"job.json": b"{}", "ct/0001.dcm": b"pixels", "bundle/model.json": b"weights"}
    header, bodies = parcel.opened(remote.handle(request(files)), 1000)
    assert header == {"exit_code": 0, "broke": "", "files": ["result.json"]}
    assert json.loads(bodies[0]) == sorted(files)
    assert bodies[1] == b"said"
    assert [path.read_bytes() for path in machine.parent.rglob("*") if path.is_file()] == [b"weights"]
    header, _ = parcel.opened(remote.handle(request({"bundle/model.json": b"weights"}, sent=False)), 1000)
    assert header["exit_code"] == 0
    header, _ = parcel.opened(remote.handle(request({"ct/0001.dcm": b"pixels"}, sent=False)), 1000)
    assert header == {"lacking": [hashlib.sha256(b"pixels").hexdigest()]}


def test_a_kept_file_that_the_disk_has_altered_is_lacking(machine: Path) -> None:
    remote.handle(request({"bundle/model.json": b"weights"}))
    (kept,) = (machine.parent / "prognode-bundles").iterdir()
    kept.write_bytes(b"weightz")
    header, _ = parcel.opened(remote.handle(request({"bundle/model.json": b"weights"}, sent=False)), 1000)
    assert header == {"lacking": [kept.name]}


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd", "a/../b", "a/b/c", "", ".", "a/..", "x\0y", "x\n"])
def test_a_worker_writes_no_file_outside_of_its_folder(machine: Path, name: str) -> None:
    header, _ = parcel.opened(remote.handle(request({name: b"x"})), 1000)
    assert header == {"not_started": "the name of a file in it is not valid"}


def test_a_worker_of_another_version_takes_no_job(machine: Path) -> None:
    header, _ = parcel.opened(remote.handle(request({}, version="0.0.9")), 1000)
    assert header["not_started"] == f"the worker has Prognode {VERSION}, the node 0.0.9"


def test_a_worker_that_cannot_confine_a_job_takes_none_where_that_is_required(machine: Path) -> None:
    limits = {name: value for name, value in asdict(Job(isolation="required")).items() if name in remote.LIMITS}
    header, _ = parcel.opened(remote.handle(request({}, limits=limits)), 1000)
    assert "lacks: no network" in header["not_started"]


def test_a_machine_that_says_other_numbers_takes_no_job_of_that_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def golden(module: str, folder: Path, *_: object) -> tuple[int, str]:
        asked.append((folder / "model.json").read_text())
        if asked[-1] == "killed":
            return -9, ""
        return (0, "126 numbers agree") if asked[-1] == "good" else (78, "Trace\nscore: 0.61, not 0.59")

    monkeypatch.setattr(process, "ask_module", golden)
    for text in ("good", "bad", "killed"):
        (tmp_path / text).mkdir()
        (tmp_path / text / "model.json").write_text(text)
    for _ in range(2):
        remote._prove(tmp_path / "good", Job(), Isolation((), (), ()))
        with pytest.raises(NotStarted, match=r"fails on the worker: score: 0\.61, not 0\.59"):
            remote._prove(tmp_path / "bad", Job(), Isolation((), (), ()))
        with pytest.raises(NotStarted, match="could not be run on the worker: status -9"):
            remote._prove(tmp_path / "killed", Job(), Isolation((), (), ()))
    assert asked == ["good", "bad", "killed", "killed"]  # once for each bundle, but for one that could not be run


def test_the_golden_case_on_a_worker_has_as_long_as_the_settings_give_a_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[float] = []
    monkeypatch.setattr(process, "ask_module", lambda *asked: (given.append(asked[2]), (None, ""))[1])
    for seconds in (900.0, 5.0):
        with pytest.raises(NotStarted, match=r"did not end within \d+ s on the worker; .* raise \[job\] wall_clock"):
            remote._prove(tmp_path, Job(wall_clock_seconds=seconds), Isolation((), (), ()))
    assert given == [900.0, GOLDEN_SECONDS]


@pytest.mark.parametrize("given", [b"", b"\x80\x05.", parcel.packed({}), parcel.packed({"version": VERSION})])
def test_a_worker_raises_nothing_that_dask_would_log_with_the_images(machine: Path, given: bytes) -> None:
    header, _ = parcel.opened(remote.handle(given), 1000)
    assert header["not_started"]


# -- what the node takes ---------------------------------------------------------------------------------------


def answering(monkeypatch: pytest.MonkeyPatch, *answers: object, **job: Any) -> DaskExecutor:
    """An executor whose cluster gives these answers."""
    left = iter(answers)
    executor = DaskExecutor(Job(executor="dask", dask=Dask("tcp://127.0.0.1:9", **job)))
    monkeypatch.setattr(Cluster, "answer", lambda *_: next(left))
    return executor


def folders(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("in/bundle", "out"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "in" / "job.json").write_text("{}")
    (tmp_path / "in" / "bundle" / "model.json").write_text("weights")
    return tmp_path / "in", tmp_path / "out"


@pytest.mark.parametrize(
    "answer",
    [
        "text",
        parcel.packed({"exit_code": "0", "broke": "", "files": []}, [b""]),
        parcel.packed({"exit_code": True, "broke": "", "files": []}, [b""]),
        parcel.packed({"exit_code": 0, "broke": 7, "files": []}, [b""]),
        parcel.packed({"exit_code": 0, "broke": "", "files": ["../../evil"]}, [b"x", b""]),
        parcel.packed({"exit_code": 0, "broke": "", "files": [["result.json"]]}, [b"x", b""]),
        parcel.packed({"exit_code": 0, "broke": "", "files": ["result.json"]}, [b"x"]),
        parcel.packed({"exit_code": 0, "broke": "", "files": {"result.json": 1}}, [b"x", b""]),
        parcel.packed({"exit_code": 0, "broke": "", "run": "../../out"}),
        parcel.packed({"exit_code": 0, "broke": "", "run": ["run-0123456789abcdef"]}),
        parcel.packed({"not_started": "no\nroom\x1b[0m"}),
    ],
)
def test_an_answer_that_is_not_as_agreed_is_no_result_and_no_study_s_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: object
) -> None:
    executor = answering(monkeypatch, answer)
    with pytest.raises(NotStarted) as caught:
        executor.run(*folders(tmp_path), KEY)
    assert str(caught.value).isprintable()
    assert list((tmp_path / "out").iterdir()) == []
    assert not (tmp_path.parent / "evil").exists()


def test_a_question_is_given_up_after_its_own_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executor, waited = DaskExecutor(Job(executor="dask", dask=NOWHERE)), []

    def answer(_: Cluster, key: str, request: Callable[[], bytes], seconds: float) -> bytes:
        waited.append(seconds)
        return parcel.packed({"exit_code": 0, "said": "agrees", "files": []})

    monkeypatch.setattr(Cluster, "answer", answer)
    folder_in, _ = folders(tmp_path)
    assert executor.ask("analysis.golden", folder_in / "bundle", 90.0) == (0, "agrees")
    assert waited == [90.0]


def test_a_worker_that_cannot_start_jobs_is_named_and_does_not_stop_the_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scheduler and two workers in this process."""
    import distributed

    monkeypatch.setattr(node_side, "LOOK_SECONDS", 0.1)
    with (
        distributed.LocalCluster(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None) as local,
        distributed.Client(local, set_as_default=False) as client,
    ):
        bad = [min(worker.address for worker in local.workers.values())]
        handled: list[str] = []

        def answer(header: dict[str, Any], _: object) -> bytes:
            handled.append(distributed.get_worker().address)
            if handled[-1] in bad:
                raise NotStarted("no disk")
            return parcel.packed({"exit_code": 0, "said": "agrees"})

        monkeypatch.setattr(remote, "_answer", answer)
        executor = DaskExecutor(Job(executor="dask", dask=Dask("tcp://127.0.0.1:8")))
        monkeypatch.setattr(executor._cluster, "_connected", lambda: client)
        folder_in, _ = folders(tmp_path)
        for number in range(8):
            (folder_in / "bundle" / "number").write_text(str(number))
            assert executor.ask("analysis.golden", folder_in / "bundle", 60.0) == (0, "agrees")
        assert handled.count(bad[0]) <= 1, "it is asked once a minute"
        bad.extend(worker.address for worker in local.workers.values())
        with pytest.raises(NotStarted, match=r"worker inproc://.*: no disk"):
            executor.ask("analysis.golden", folder_in / "bundle", 60.0)


def test_a_job_that_kills_its_workers_ends_as_one_that_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert answering(monkeypatch, None).run(*folders(tmp_path), KEY) == Ended(node_side.KILLED)


def test_files_of_a_bundle_are_sent_again_where_a_worker_lacks_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = parcel.packed({"exit_code": 0, "broke": "", "files": ["result.json"]}, [b"{}", b"said"])
    seen: list[dict[str, Any]] = []
    answers = iter([good, parcel.packed({"lacking": ["x"]}), good])

    def answer(self: Cluster, key: str, sent: Callable[[], bytes], seconds: float) -> object:
        header, bodies = parcel.opened(sent(), 1000)
        seen.append({each["name"]: each["sent"] for each in header["files"]} | {"bodies": len(bodies), "key": key})
        return next(answers)

    executor = DaskExecutor(Job(executor="dask", dask=NOWHERE))
    monkeypatch.setattr(Cluster, "answer", answer)
    places = folders(tmp_path)
    assert executor.run(*places, KEY) == executor.run(*places, KEY) == Ended(0)
    assert [each["bundle/model.json"] for each in seen] == [True, False, True]
    assert [each["bodies"] for each in seen] == [2, 1, 2]
    assert seen[0]["key"] == seen[2]["key"] != seen[1]["key"]
    assert (tmp_path / process.LOG_FILE).read_text() == "said"


def test_out_of_a_shared_run_takes_the_place_of_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "run-0123456789abcdef"
    answer = parcel.packed({"exit_code": 0, "broke": "", "run": name})
    executor = answering(monkeypatch, answer, transfer="shared")
    places = folders(tmp_path)
    (tmp_path / name / "out").mkdir(parents=True)
    (tmp_path / name / "out" / "result.json").write_text("{}")
    (tmp_path / name / process.LOG_FILE).write_text("said")
    assert executor.run(*places, KEY) == Ended(0)
    assert (tmp_path / "out" / "result.json").read_text() == "{}"
    assert (tmp_path / process.LOG_FILE).read_text() == "said"


def test_a_scheduler_that_is_away_is_no_study_s_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_side, "CONNECT_SECONDS", 0.2)
    executor = DaskExecutor(Job(executor="dask", dask=NOWHERE))
    with pytest.raises(NotStarted, match="cannot be reached"):
        executor.run(*folders(tmp_path), KEY)
    assert executor.slots >= 1
