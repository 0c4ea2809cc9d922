"""The argument list for podman and docker, and what the answer of the trial container means. No engine needed."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from config.job import mistakes
from config.settings import Job
from dicom_node.executors import container, container_words, sandbox
from dicom_node.executors.container_words import Engine, judged
from dicom_node.executors.contract import NotStarted

IMAGE = "localhost/prognode-job@sha256:" + "5" * 64
LIMITS = Job(executor="container", image=IMAGE, memory_bytes=4_000_000_000, cpu_seconds=60, output_bytes=1_000_000)
ROOTS = Engine("podman", "4.3.1", 0, 0)
GOOD: dict[str, Any] = {
    "uid": 65532, "capabilities": 0, "no_new_privileges": True, "seccomp": True, "interfaces": ["lo"], "processes": 3,
    "root": "EROFS", "in": "EROFS", "out": "written", "read": "question", "memory_bytes": 4_000_000_000, "swap": False,
    "pids": 256, "cpu_seconds": 60, "file_bytes": 1_000_000, "open_files": 1024, "telemetry": False, "version": "1.0",
    "spool": False, "address_space": -1, "user_processes": 4096,
}  # fmt: skip


def words(engine: Engine = ROOTS, **changes: Any) -> list[str]:
    return container_words.command(
        engine, LIMITS, "prognode-a-b", "prognode.node=a", ["python", "x"],
        **{"folder_in": Path("/s/in"), "folder_out": Path("/s/out"), "seconds": 90.0} | changes,
    )  # fmt: skip


def holds(line: Sequence[str], *part: str) -> bool:
    return any(tuple(line[at : at + len(part)]) == part for at in range(len(line)))


@pytest.mark.parametrize(
    "part",
    [
        ("--network", "none"),
        ("--read-only",),
        ("--user", "65532:65532"),
        ("--cap-drop", "all"),
        ("--security-opt", "no-new-privileges"),
        ("--pull", "never"),
        ("--memory", "4000000000b", "--memory-swap", "4000000000b"),
        ("--pids-limit", "256"),
        ("--ulimit", "cpu=60:60"),
        ("--ulimit", "fsize=1000000:1000000"),
        ("--volume", "/s/in:/in:ro"),
        ("--volume", "/s/out:/out:rw"),
        ("--env", "ORT_DISABLE_TELEMETRY=1"),
        ("--name", "prognode-a-b", "--label", "prognode.node=a"),
        ("timeout", "--kill-after=5", "90", "python", "x"),
    ],
)
def test_every_limit_is_in_the_argument_list(part: tuple[str, ...]) -> None:
    assert holds(words(), *part)


def test_the_list_is_the_same_for_both_engines_when_root_calls_them() -> None:
    assert words()[1:] == words(Engine("docker", "28", 0, 0))[1:]


@pytest.mark.parametrize(
    ("engine", "parent"),
    [
        (Engine("podman", "4.3.1", 0, 0, "cgroupfs"), ["/"]),
        (Engine("podman", "4.3.1", 0, 0, "systemd"), ["prognode-jobs.slice"]),
        (Engine("docker", "28", 0, 0, "systemd"), ["prognode-jobs.slice"]),
        (Engine("docker", "28", 1000, 100, "cgroupfs"), ["/"]),  # its daemon is root
        (Engine("podman", "4.3.1", 1000, 100, "systemd"), []),  # in the user's own part of the tree
    ],
)
def test_a_job_gives_way_where_its_shares_count(engine: Engine, parent: list[str]) -> None:
    line = words(engine)
    assert holds(line, "--cpu-shares", "256")
    assert [each for at, each in enumerate(line) if line[at - 1] == "--cgroup-parent"] == parent


def test_a_user_without_privileges_is_mapped_by_podman_and_kept_by_docker() -> None:
    assert holds(words(Engine("podman", "4.3.1", 1000, 100)), "--userns", "keep-id:uid=65532,gid=65532")
    docker = words(Engine("docker", "28", 1000, 100))
    assert holds(docker, "--user", "1000:100")
    assert "--userns" not in docker


def test_without_an_output_nothing_is_writable() -> None:
    line = words(folder_out=None)
    assert [each for at, each in enumerate(line) if line[at - 1] == "--volume"] == ["/s/in:/in:ro"]


def test_a_path_with_a_colon_is_refused() -> None:
    with pytest.raises(ValueError, match="colon"):
        words(folder_in=Path("/s:rw/in"))


def test_two_spools_never_share_a_container() -> None:
    assert container_words.owner(Path("/a")) != container_words.owner(Path("/b"))


def test_all_promises_kept_are_told_and_none_is_missing() -> None:
    kept = judged(GOOD, LIMITS, "1.0", "question")
    assert (kept.missing, kept.unfit) == ((), "")
    assert {name for name, _ in kept.in_force} == {
        sandbox.NETWORK, sandbox.PRIVILEGES, sandbox.SYSTEM_CALLS, sandbox.INPUTS, sandbox.NOTHING_ELSE,
        sandbox.NO_SURVIVOR, *sandbox.LIMITS,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "missing"),
    [
        ({"interfaces": ["eth0", "lo"]}, sandbox.NETWORK),
        ({"capabilities": 1}, sandbox.PRIVILEGES),
        ({"uid": 0}, sandbox.PRIVILEGES),
        ({"no_new_privileges": False}, sandbox.PRIVILEGES),
        ({"seccomp": False}, sandbox.SYSTEM_CALLS),
        ({"in": "written"}, sandbox.INPUTS),
        ({"in": "EACCES"}, sandbox.INPUTS),
        ({"root": "written"}, sandbox.NOTHING_ELSE),
        ({"spool": True}, sandbox.NOTHING_ELSE),
        ({"processes": 200}, sandbox.NO_SURVIVOR),
        ({"pids": None}, sandbox.PROCESSES),
        ({"pids": 32768}, sandbox.PROCESSES),
        ({"memory_bytes": None}, sandbox.MEMORY),
        ({"memory_bytes": 9_223_372_036_854_771_712}, sandbox.MEMORY),
        ({"cpu_seconds": -1}, "CPU time"),
        ({"file_bytes": -1}, "size of files"),
        ({"open_files": 1_048_576}, "open files"),
    ],
)
def test_what_the_trial_does_not_find_is_missing(changes: dict[str, Any], missing: str) -> None:
    assert judged(GOOD | changes, LIMITS, "1.0", "question").missing == (missing,)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"version": "0.9"}, "image holds Prognode 0.9, this node is 1.0"),
        ({"read": "EACCES"}, "cannot read its input"),
        ({"out": "EACCES"}, "cannot write its output"),
        ({"telemetry": True}, "telemetry"),
    ],
)
def test_an_image_that_cannot_serve_is_refused_with_the_reason(changes: dict[str, Any], said: str) -> None:
    assert said in judged(GOOD | changes, LIMITS, "1.0", "question").unfit


def test_limits_of_a_process_stand_in_for_those_of_a_control_group_and_are_told_as_that() -> None:
    found = GOOD | {"pids": None, "user_processes": 256, "memory_bytes": None, "address_space": 4_000_000_000}
    kept = judged(found, LIMITS, "1.0", "question")
    assert kept.missing == ()
    assert {("memory", "RLIMIT_AS, for each process"), ("number of processes", "RLIMIT_NPROC")} <= set(kept.in_force)


def test_swap_beyond_the_memory_limit_is_said() -> None:
    assert ("memory", "cgroup, but swap is not limited") in judged(
        GOOD | {"swap": True}, LIMITS, "1.0", "question"
    ).in_force


@pytest.mark.parametrize(
    "image", ["", "prognode-job", "localhost/prognode-job:latest", "x@sha256:12", "-v@sha256:" + "5" * 64]
)
def test_an_image_without_a_digest_is_refused(image: str) -> None:
    (said,) = mistakes(replace(LIMITS, image=image))
    assert "digest" in said


def test_an_image_may_be_named_by_its_id() -> None:
    assert [*mistakes(replace(LIMITS, image="sha256:" + "5" * 64))] == []


def test_without_an_engine_no_job_is_started_and_each_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotStarted, match="podman is not installed; docker is not installed"):
        container.ContainerExecutor(LIMITS, tmp_path)


def engine_that(folder: Path, script: str) -> None:
    (folder / "podman").write_text(f"#!/bin/sh\ncase $1 in info) echo 4.3.1 cgroupfs; exit;; esac\n{script}\n")
    (folder / "podman").chmod(0o755)


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'Error: image not known' >&2; exit 125", "image not known"),
        ("echo 'runc: operation not permitted'; exit 126", "operation not permitted"),
        ("exit 1", "status 1"),
        ("echo '[]'", "status 0"),
    ],
)
def test_an_engine_that_cannot_start_the_trial_is_quoted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, said: str
) -> None:
    engine_that(tmp_path, script)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(NotStarted, match=said):
        container.ContainerExecutor(LIMITS, tmp_path)


def test_an_engine_whose_answer_is_none_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "podman").write_text("#!/bin/sh\nexit 0\n")
    (tmp_path / "podman").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NotStarted, match=r"podman info: no version.*docker is not installed"):
        container.ContainerExecutor(LIMITS, tmp_path)


def test_a_proxy_of_the_node_is_not_handed_to_the_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    engine_that(tmp_path, f"env >{tmp_path}/seen; exit 125")
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("https_proxy", "http://user:secret@proxy")
    with pytest.raises(NotStarted):
        container.ContainerExecutor(LIMITS, tmp_path)
    assert "secret" not in (tmp_path / "seen").read_text()
