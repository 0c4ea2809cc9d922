"""Secrets are read only from files that nobody else can read or replace, and never show in an error."""

import os
from pathlib import Path

import pytest

from dicom_node.secrets import CREDENTIALS, read_secret, secret_file
from dicom_node.workitem import ConfigError

WORD = "correct horse battery staple"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "fhir.token"
    path.write_text(f"{WORD}\n")
    path.chmod(0o600)
    return path


def refused(path: Path, *words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_secret(path)
    text = str(caught.value)
    assert WORD not in text
    assert str(path.name) in text or str(path.parent) in text
    for word in words:
        assert word in text


def test_a_private_file_is_read_without_its_line_feed(file: Path) -> None:
    assert read_secret(file) == WORD
    assert secret_file(file) == file


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o620, 0o602])
def test_a_file_that_others_can_read_or_write_is_refused_with_the_remedy(file: Path, mode: int) -> None:
    file.chmod(mode)
    refused(file, f"{mode:04o}", "chmod 0600")


def test_a_file_of_another_user_is_refused(file: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give a file away")
    os.chown(file, 65534, 65534)
    refused(file, "chown")


def test_a_folder_in_which_others_can_replace_the_file_is_refused(file: Path) -> None:
    file.parent.chmod(0o777)
    refused(file, "chmod go-w")
    file.parent.chmod(0o1777)  # sticky, as /tmp: nobody can rename a file of somebody else
    assert read_secret(file) == WORD


def test_the_permissions_that_count_are_those_of_the_file_behind_a_link(file: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(file)
    assert read_secret(link) == WORD
    file.chmod(0o644)
    refused(link, "0644")


def test_what_holds_no_secret_is_refused_in_words(file: Path) -> None:
    file.write_bytes(b"\n")
    refused(file, "empty")
    file.write_bytes(b"\xff\xfe\x00")
    refused(file, "no text")
    file.write_bytes(b"a" * 70_000)
    refused(file, "longer")
    refused(file.parent, "is no file")
    refused(file.with_name("absent"), "cannot be read")


def test_a_device_is_no_secret() -> None:
    with pytest.raises(ConfigError, match="is no file"):
        secret_file(Path("/dev/null"))


def test_what_systemd_hands_over_is_not_to_be_given_to_the_user_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("dicom_node.secrets.os.open", closed)
    with pytest.raises(ConfigError, match=r"Permission denied\); run this as root, or with systemd-run"):
        read_secret(Path("/etc/prognode/secrets/work/fhir.token"))
    with pytest.raises(ConfigError, match="mode 0600"):
        read_secret(Path("/srv/fhir.token"))


def test_a_check_by_hand_gets_the_folders_of_all_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "work_fhir.token").write_text("correct horse")
    monkeypatch.setenv(CREDENTIALS, str(tmp_path))
    assert read_secret(Path("/etc/prognode/secrets/work/fhir.token")) == "correct horse"


def test_a_credential_that_systemd_loaded_goes_first(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = tmp_path / "credentials"
    loaded.mkdir()
    monkeypatch.setenv(CREDENTIALS, str(loaded))
    assert read_secret(file) == WORD  # none of that name was loaded
    (loaded / file.name).write_text("from systemd")
    (loaded / file.name).chmod(0o440)  # systemd gives the service its access by an ACL, which shows as the group's
    assert read_secret(file) == "from systemd"
    file.unlink()  # the name in the settings need not be a file at all then
    assert read_secret(file) == "from systemd"
