"""The units: systemd itself finds nothing wrong with them, and they are as closed as docs/deployment.md says."""

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from config.job import Job
from dicom_node.cli import app
from dicom_node.executors import sandbox
from dicom_node.executors.container_words import LATE_SECONDS, USER
from dicom_node.executors.systemd import SPOOL
from dicom_node.secrets import CREDENTIALS, read_secret
from tests.paths import ROOT

SYSTEMD = ROOT / "deploy" / "systemd"
UNITS = sorted((SYSTEMD / "system").iterdir())
SERVICES = [unit for unit in UNITS if unit.suffix == ".service" and "@" not in unit.name]
JOB = SYSTEMD / "system" / "prognode-job@.service"
DEPLOYMENT = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")


def tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"needs {name} of Debian's package systemd")
    return found


def directives(unit: Path) -> dict[str, list[str]]:
    """Every directive of a unit with all of its values."""
    found: dict[str, list[str]] = {}
    for name, value in re.findall(r"(?m)^([A-Za-z]+)=(.*)$", unit.read_text(encoding="utf-8")):
        found.setdefault(name, []).append(value)
    return found


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The units in a folder of their own, with a program that is here in place of the installed one."""
    folder = tmp_path_factory.mktemp("units")
    for unit in UNITS:
        text = unit.read_text(encoding="utf-8")
        (folder / unit.name).write_text(text.replace("/usr/bin/prognode", "/bin/true"))
    return folder


def test_systemd_finds_nothing_wrong_with_any_unit(installed: Path) -> None:
    units = [str(installed / unit.name) for unit in UNITS]
    done = subprocess.run(
        [tool("systemd-analyze"), "verify", "--man=no", *units],
        env={"PATH": "/usr/bin:/bin", "SYSTEMD_UNIT_PATH": f"{installed}:"},  # the last colon: and those of the host
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")  # an unknown directive is a line there, and no failure


def test_a_misspelt_directive_would_be_seen(installed: Path, tmp_path: Path) -> None:
    text = (installed / "prognode-web.service").read_text().replace("ProtectHome=", "ProtectHomes=")
    (tmp_path / "prognode-web.service").write_text(text)
    for other in UNITS:
        if other.name != "prognode-web.service":
            shutil.copy(installed / other.name, tmp_path)
    done = subprocess.run(
        [tool("systemd-analyze"), "verify", "--man=no", str(tmp_path / "prognode-web.service")],
        env={"PATH": "/usr/bin:/bin", "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "ProtectHomes" in done.stderr


def score(unit: Path) -> float:
    """The exposure that systemd-analyze security sees: 0 is safe, 10 is not."""
    done = subprocess.run(
        [tool("systemd-analyze"), "security", "--offline=true", "--no-pager", str(unit)],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    (said,) = re.findall(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    return float(said)


# What docs/deployment.md promises of each.
@pytest.mark.parametrize(
    ("name", "at_most"), [("receive", 1.5), ("web", 1.5), ("work", 1.5), ("run", 2.5), ("job@", 0.5)]
)
def test_a_service_is_as_closed_as_the_document_says(name: str, at_most: float) -> None:
    found = score(SYSTEMD / "system" / f"prognode-{name}.service")
    assert found <= at_most
    assert re.findall(rf"\| `prognode-{name}.service` \| ([0-9.]+) \|", DEPLOYMENT) == [str(found)]


def test_a_runner_that_is_closed_itself_is_as_closed_as_the_document_says(tmp_path: Path) -> None:
    closed = (SYSTEMD / "examples" / "prognode-run-closed.conf").read_text(encoding="utf-8")
    unit = tmp_path / "prognode-run.service"
    unit.write_text((SYSTEMD / "system" / unit.name).read_text(encoding="utf-8") + closed)  # as systemd reads a drop-in
    assert score(unit) <= 0.5
    assert "| the same with `examples/prognode-run-closed.conf` | 0.5 |" in DEPLOYMENT


@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.stem)
def test_every_service_runs_a_command_that_there_is_and_is_watched(unit: Path) -> None:
    import typer

    said = directives(unit)
    ((program, command, *options),) = [line.split() for line in said["ExecStart"]]
    assert program == "/usr/bin/prognode"
    assert command in typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert said["Type"] == ["notify"]
    assert int(said["WatchdogSec"][0]) > 0
    assert options == (["--without-jobs"] if command == "work" else [])
    if command != "run":  # which calls nobody, and has no use for a secret
        assert said["LoadCredential"] == [f"secrets:/etc/prognode/secrets/{command}"]
        made = (SYSTEMD / "tmpfiles.d/prognode.conf").read_text()
        assert f"d /etc/prognode/secrets/{command} 0700 root root -" in made
    assert (SYSTEMD / "system" / said["Slice"][0]).is_file()
    assert "ORT_DISABLE_TELEMETRY=1" in " ".join(said["Environment"])


def test_the_limits_of_a_job_that_is_a_unit_are_those_of_the_settings_as_they_come() -> None:
    said, job = directives(JOB), Job()
    assert {name: said[name] for name in ("MemoryMax", "LimitAS", "LimitCPU", "LimitFSIZE", "TasksMax", "LimitNPROC",
                                          "LimitNOFILE", "LimitCORE")} == {
        "MemoryMax": [str(job.memory_bytes)], "LimitAS": [str(job.memory_bytes)], "LimitCPU": [str(job.cpu_seconds)],
        "LimitFSIZE": [str(job.output_bytes)], "TasksMax": [str(sandbox.MAXIMUM_PROCESSES)],
        "LimitNPROC": [str(sandbox.MAXIMUM_PROCESSES)], "LimitNOFILE": [str(sandbox.OPEN_FILES)], "LimitCORE": ["0"],
    }  # fmt: skip
    assert float(said["TimeoutStartSec"][0]) == job.wall_clock_seconds + LATE_SECONDS


def test_a_job_in_a_container_says_the_same_as_a_unit_without_and_has_the_same_limits() -> None:
    text, job = (ROOT / "deploy/quadlet/prognode-job@.container").read_text(encoding="utf-8"), Job()
    (unit,) = re.findall(r"(?ms)^ExecStart=/bin/sh (-c '.*?') /usr/lib/prognode/bin/python %i$", JOB.read_text())
    assert f"Exec={unit} /opt/prognode/bin/python %i\n" in text
    for limit in (
        f"--memory={job.memory_bytes}b",
        f"--memory-swap={job.memory_bytes}b",
        f"--ulimit=cpu={job.cpu_seconds}:",
        f"--ulimit=fsize={job.output_bytes}:",
        f"--ulimit=nofile={sandbox.OPEN_FILES}:",
        f"PidsLimit={sandbox.MAXIMUM_PROCESSES}\n",
        f"User={USER}\n",
        "Network=none\n",
        "Pull=never\n",
        "ReadOnly=true\n",
        "DropCapability=all\n",
        "NoNewPrivileges=true\n",
        "Image=localhost/prognode-job@sha256:",
        f"TimeoutStartSec={job.wall_clock_seconds + LATE_SECONDS:.0f}\n",
        f"Volume={SPOOL}/jobs/%i/in:/mnt/in:ro\n",
    ):
        assert limit in text


@pytest.mark.parametrize(
    ("unit", "verb", "allowed"),
    [
        (f"prognode-job@{'0' * 64}.service", "start", True),
        (f"prognode-job@trial-{'f' * 64}.service", "stop", True),
        (f"prognode-job@golden-{'f' * 64}.service", "reset-failed", True),
        (f"prognode-job@{'0' * 64}.service", "set-property", False),
        (f"prognode-job@{'0' * 63}.service", "start", False),
        ("prognode-job@...service", "start", False),
        ("prognode-run.service", "stop", False),
        (f"x-prognode-job@{'0' * 64}.service", "start", False),
    ],
)
def test_the_rule_lets_the_node_start_units_of_jobs_and_no_others(unit: str, verb: str, allowed: bool) -> None:
    rule = (ROOT / "deploy/polkit/60-prognode-jobs.rules").read_text(encoding="utf-8")
    (pattern,) = re.findall(
        r"/(\^.*\$)/\.test", rule
    )  # polkit itself is asked in the booted machine (make nspawn-test)
    (verbs,) = re.findall(r"\[(.*?)\]\.indexOf\(action\.lookup\(\"verb\"\)", rule)
    assert bool(re.search(pattern, unit) and f'"{verb}"' in verbs) == allowed


def test_each_socket_unit_has_a_name_that_the_node_asks_for() -> None:
    code = "".join((ROOT / "dicom_node" / name).read_text() for name in ("door.py", "hl7_in.py", "web/server.py"))
    asked = {
        name for line in re.findall(r"notify\.passed\((.*)\)", code) for name in re.findall(r'"([a-z0-9-]+)"', line)
    }
    units = [directives(unit) for unit in UNITS if unit.suffix == ".socket"]
    assert (
        {name for unit in units for name in unit["FileDescriptorName"]} == asked == {"dicom", "dicom-tls", "hl7", "web"}
    )
    for unit in units:
        assert (SYSTEMD / "system" / unit["Service"][0]).is_file()


def test_the_user_and_the_folders_are_made_as_the_units_want_them(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    for program, file in (("systemd-sysusers", "sysusers.d"), ("systemd-tmpfiles", "tmpfiles.d")):
        action = ["--create"] if program == "systemd-tmpfiles" else []
        done = subprocess.run(
            [tool(program), *action, f"--root={tmp_path}", str(SYSTEMD / file / "prognode.conf")],
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        if "Operation not permitted" in done.stderr or "Permission denied" in done.stderr:
            pytest.skip(f"only root may do this: {done.stderr.splitlines()[0]}")
        assert done.returncode == 0, done.stderr
    assert re.search(r"(?m)^prognode:.*:/var/lib/prognode:/usr/sbin/nologin$", (tmp_path / "etc/passwd").read_text())
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "etc/prognode").rglob("*")}
    assert modes == {"secrets": 0o711, "receive": 0o700, "work": 0o700, "web": 0o700}


def test_a_secret_of_a_folder_of_credentials_is_found_by_its_own_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "secrets_fhir.token").write_text("correct horse\n")
    monkeypatch.setenv(CREDENTIALS, str(tmp_path))
    assert read_secret(Path("/etc/prognode/secrets/work/fhir.token")) == "correct horse"


def test_no_unit_has_a_secret_or_a_value_twice_that_systemd_takes_once() -> None:
    many = {"SystemCallFilter", "Environment", "After", "Wants"}
    for unit in UNITS:
        twice = {name for name, values in directives(unit).items() if len(values) > 1} - many
        assert not twice, (unit.name, twice)
        parser = configparser.ConfigParser(strict=False, interpolation=None)
        parser.read_string(unit.read_text())
        assert set(parser.sections()) <= {"Unit", "Service", "Socket", "Slice", "Install"}
