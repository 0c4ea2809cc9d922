"""The container set-ups: services as closed as docs/containers.md says; podman's generator takes the Quadlet files."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from dicom_node.cli import app
from scripts import image
from tests.paths import ROOT

QUADLET = ROOT / "deploy" / "quadlet"
SERVICES = sorted(QUADLET.glob("prognode-[!j]*.container"))
COMPOSE = (ROOT / "deploy" / "compose.yaml").read_text(encoding="utf-8")
CONTAINERFILES = [ROOT / "deploy" / name for name in ("Containerfile", "Containerfile.node")]
# Keys of the generator and the podman that brought them (its release notes): one that it does not know costs the whole
# file. Not here: StopTimeout (5.0) and Ulimit (before 5.0 the last one counted alone); PodmanArgs takes both.
OLDEST = (4, 8)  # Ubuntu 24.04 has 4.9, RHEL 9 and Debian 13 have 5
KEYS = {
    **dict.fromkeys(("Image", "ContainerName", "Exec", "Network", "Volume", "Environment", "User", "Group"), (4, 4)),
    **dict.fromkeys(("ReadOnly", "DropCapability", "NoNewPrivileges", "Notify", "PublishPort", "PodmanArgs"), (4, 4)),
    "LogDriver": (4, 5), "Tmpfs": (4, 5), "Pull": (4, 6), "WorkingDir": (4, 6), "PidsLimit": (4, 7),
    "VolumeName": (4, 7), "ReadOnlyTmpfs": (4, 8),
}  # fmt: skip
CLOSED = (
    "Pull=never", "User=65532", "ReadOnly=true", "DropCapability=all", "NoNewPrivileges=true",
    "Volume=/etc/prognode:/etc/prognode:ro", "RestartPreventExitStatus=78",
)  # fmt: skip


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("path", SERVICES, ids=lambda path: path.stem)
def test_a_service_is_closed(path: Path) -> None:
    assert [each for each in CLOSED if each not in lines(path)] == []


def test_only_what_is_called_publishes_a_port_and_the_runner_has_no_network() -> None:
    published = {path.stem for path in SERVICES if any(line.startswith("PublishPort=") for line in lines(path))}
    assert published == {"prognode-receive", "prognode-web"}
    assert "Network=none" in lines(QUADLET / "prognode-run.container")


def test_a_service_gets_its_own_secrets_and_the_runner_none() -> None:
    for name in ("receive", "work", "web", "run"):
        own = [f"/etc/prognode-secrets/{name}:/etc/prognode-secrets:ro"] if name != "run" else []
        found = [each for each in lines(QUADLET / f"prognode-{name}.container") if "Volume=" in each]
        volumes = [each.removeprefix("Volume=") for each in found]
        assert volumes == ["prognode-spool.volume:/var/lib/prognode", "/etc/prognode:/etc/prognode:ro", *own]
        (said,) = re.findall(rf"^  {name}:\n(?:    .*\n)*?    volumes: \[(.*)\]$", COMPOSE, re.MULTILINE)
        plain = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", said).replace('"', "")
        assert plain.split(", ") == ["*spool", "*settings", *own]
    assert "x-settings: &settings ${PROGNODE_ETC:-/etc/prognode}:/etc/prognode:ro\n" in COMPOSE
    assert "  restart: unless-stopped\n" in COMPOSE  # docker's daemon starts no other ones when it starts itself


def test_each_service_starts_a_command_that_there_is() -> None:
    commands = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    words = [line.removeprefix("Exec=").split()[0] for path in SERVICES for line in lines(path) if line[:5] == "Exec="]
    words += re.findall(r'command: \["([a-z]+)"', COMPOSE)
    assert len(words) == 8
    assert set(words) <= commands


def test_compose_closes_every_service_in_the_same_way() -> None:
    shared = COMPOSE[: COMPOSE.index("services:")]
    for part in (
        'user: "65532:65532"',
        "read_only: true",
        "cap_drop: [ALL]",
        "no-new-privileges:true",
        "pull_policy: never",
    ):
        assert part in shared
    assert COMPOSE.count("<<: *service") == 4
    assert COMPOSE.count("network_mode: none") == 1


@pytest.mark.parametrize("path", CONTAINERFILES, ids=lambda path: path.name)
def test_an_image_is_built_offline_by_hash_and_sends_no_telemetry(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert "--no-index" in text
    assert "--require-hashes" in text
    assert "ORT_DISABLE_TELEMETRY=1" in text
    # buildah does not see that what a bind mount holds has changed: the list of hashes comes before it.
    assert text.index("COPY requirements.txt") < text.index("RUN --mount=type=bind")


def test_without_an_engine_the_image_is_not_skipped_silently(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("IMAGE_OPTIONAL", raising=False)
    monkeypatch.delenv("ENGINE", raising=False)
    assert image.main(tmp_path, tmp_path / "image", node=True) == os.EX_UNAVAILABLE
    assert image.why() == "here it cannot: neither podman nor docker is installed (apt-get install podman)"
    monkeypatch.setenv("IMAGE_OPTIONAL", "1")
    assert image.main(tmp_path, tmp_path / "image", node=True) == 0


@pytest.mark.parametrize("path", sorted(QUADLET.iterdir()), ids=lambda path: path.name)
def test_the_oldest_podman_that_is_promised_knows_every_key(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    section = re.findall(r"(?ms)^\[(?:Container|Volume)\]\n(.*?)(?=^\[|\Z)", text)
    assert len(section) == 1
    used = set(re.findall(r"(?m)^([A-Za-z]+)=", section[0]))
    assert used
    assert {key for key in used if KEYS.get(key, (99, 0)) > OLDEST} == set()
    assert f"podman {OLDEST[0]}.{OLDEST[1]} or newer" in (ROOT / "docs" / "containers.md").read_text(encoding="utf-8")


def generated(folder: Path) -> "subprocess.CompletedProcess[str]":
    """What podman's generator makes of the files in a folder: its own, or the one that `make quadlet-test` fetched."""
    places = (ROOT / "build" / "quadlet" / "quadlet", "/usr/libexec/podman/quadlet", "/usr/lib/podman/quadlet")
    quadlet = next((str(path) for path in places if shutil.which(path)), None)
    if quadlet is None:
        pytest.skip("this podman has no Quadlet (it came with 4.4): make quadlet-test fetches Debian 13's generator")
    return subprocess.run(
        [quadlet, "--dryrun"], env={"QUADLET_UNIT_DIRS": str(folder)}, capture_output=True, text=True, check=False
    )


def test_podmans_generator_takes_the_quadlet_files() -> None:
    done = generated(QUADLET)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("ExecStart=/usr/bin/podman run") == len(list(QUADLET.glob("*.container")))


def test_podmans_generator_refuses_a_key_that_it_does_not_know(tmp_path: Path) -> None:
    text = (QUADLET / "prognode-run.container").read_text(encoding="utf-8")
    (tmp_path / "prognode-run.container").write_text(text.replace("NoNewPrivileges=", "NoNewPrivilegs="))
    done = generated(tmp_path)
    assert done.returncode != 0
    assert "unsupported key 'NoNewPrivilegs'" in done.stderr
