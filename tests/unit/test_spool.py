"""Results that take the place of earlier ones: whatever ends in between, the old or the new are there, whole."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dicom_node.spool import Spool


class Killed(BaseException):
    """Stands for a SIGKILL: nobody handles it."""


def write(spool: Spool, text: str) -> None:
    with spool.replace_results("key", "report") as folder:
        (folder / "risk-sr.dcm").write_text(text)


def read(spool: Spool) -> str:
    return (spool.results("key", "report") / "risk-sr.dcm").read_text()


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    made = Spool(tmp_path)
    made.create()
    write(made, "old")
    return made


def stopped_at(number: int, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rename with this number, from 1, is the last thing that is not done."""
    calls, rename = [0], os.replace

    def replace(source: Path, target: Path) -> None:
        calls[0] += 1
        if calls[0] == number:
            raise error
        rename(source, target)

    monkeypatch.setattr(os, "replace", replace)


def test_new_results_take_the_place_of_the_old_and_leave_nothing_beside_them(spool: Spool) -> None:
    write(spool, "new")
    assert read(spool) == "new"
    assert [path.name for path in spool.results("key", "report").parent.iterdir()] == ["report"]


@pytest.mark.parametrize("number", [1, 2])
def test_results_survive_a_kill_while_they_are_replaced(
    spool: Spool, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        stopped_at(number, Killed(), patched)
        with pytest.raises(Killed):
            write(spool, "new")
    spool.sweep_drafts()  # what the next worker begins with
    assert read(spool) == "old"
    write(spool, "new")
    assert read(spool) == "new"


@pytest.mark.parametrize("number", [1, 2])
def test_a_disk_that_refuses_the_new_results_leaves_the_old(
    spool: Spool, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        stopped_at(number, OSError("no space"), patched)
        with pytest.raises(OSError, match="no space"):
            write(spool, "new")
    assert read(spool) == "old"


@pytest.mark.parametrize("sweep", [lambda spool: None, Spool.sweep_drafts])
def test_what_a_kill_left_beside_new_results_is_no_hindrance(spool: Spool, sweep: Callable[[Spool], None]) -> None:
    left = spool.results("key", "report").with_name(".report.before")
    left.mkdir()
    (left / "risk-sr.dcm").write_text("older")
    sweep(spool)
    write(spool, "new")
    assert read(spool) == "new"
    assert not left.exists()


def arrived(spool: Spool, data: bytes) -> tuple[Path, int]:
    """A file that is written, and still open."""
    path = spool.new_incoming()
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    os.write(descriptor, data)
    return path, descriptor


@pytest.mark.parametrize("links", [True, False], ids=["hard links", "none"])
def test_what_arrives_gets_its_name_once_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "no hard links here")

    spool = Spool(tmp_path / "spool")
    spool.create()
    if not links:
        monkeypatch.setattr(os, "link", refuse)
    for data in (b"torn by a power cut", b"whole"):  # the second time, the name is taken
        path, descriptor = arrived(spool, data)
        assert spool.keep_arrival(path, descriptor, "1.2.3", "ab" * 32, lambda: False)
        os.close(descriptor)
        assert spool.instance_path("1.2.3", "ab" * 32).read_bytes() == data
        assert list(spool.incoming.iterdir()) == []


def test_a_name_that_is_taken_is_given_to_durable_bytes_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    acts: list[str] = []
    spool = Spool(tmp_path / "spool")
    spool.create()
    path, descriptor = arrived(spool, b"first")
    spool.keep_arrival(path, descriptor, "1.2.3", "ab" * 32, lambda: False)
    os.close(descriptor)
    path, descriptor = arrived(spool, b"again")
    for name in ("fsync", "replace"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, real=real, name=name: (acts.append(name), real(*a))[1])
    spool.keep_arrival(path, descriptor, "1.2.3", "ab" * 32, lambda: False)
    os.close(descriptor)
    assert acts == ["fsync", "replace", "fsync"]


def test_what_is_here_and_known_stays_as_it_is(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    spool.create()
    for data, known in ((b"first", False), (b"again", True)):
        path, descriptor = arrived(spool, data)
        assert spool.keep_arrival(path, descriptor, "1.2.3", "ab" * 32, lambda known=known: known) is not known
        os.close(descriptor)
    assert spool.instance_path("1.2.3", "ab" * 32).read_bytes() == b"first"
    assert path.exists(), "it is still its caller's to remove"


def arrived_again(folder: Path) -> tuple[Spool, Path, Path, int]:
    """A file whose name is taken: the spool, that name, and what `arrived` gives."""
    spool = Spool(folder / "spool")
    spool.create()
    named = spool.instance_path("1.2.3", "ab" * 32)
    named.write_bytes(b"data")
    return spool, named, *arrived(spool, b"data")


def test_what_another_sender_has_just_brought_is_durable_before_it_is_called_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That one gave it its name, and may not have flushed it yet."""
    spool, named, path, descriptor = arrived_again(tmp_path)
    flushed: list[int] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda one: (real(one), flushed.append(os.fstat(one).st_ino))[0])
    assert not spool.keep_arrival(path, descriptor, "1.2.3", "ab" * 32, lambda: not flushed)
    os.close(descriptor)
    assert flushed == [named.stat().st_ino, named.parent.stat().st_ino]


@pytest.mark.parametrize("which", ["file", "folder"])
def test_a_known_file_that_cannot_be_flushed_is_not_called_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    spool, named, path, descriptor = arrived_again(tmp_path)
    broken = (named if which == "file" else named.parent).stat().st_ino
    real = os.fsync

    def fsync(one: int) -> None:
        if os.fstat(one).st_ino == broken:
            raise OSError(errno.EIO, "a broken disk")
        real(one)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="broken"):
        spool.keep_arrival(path, descriptor, "1.2.3", "ab" * 32, lambda: True)
    os.close(descriptor)
    assert named.read_bytes() == b"data", "it is another's"


@pytest.mark.parametrize("which", ["file", "folder"])
def test_what_cannot_be_flushed_keeps_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: str) -> None:
    spool = Spool(tmp_path / "spool")
    spool.create()
    path, descriptor = arrived(spool, b"data")
    real = os.fsync

    def fsync(one: int) -> None:
        if (one == descriptor) is (which == "file"):
            raise OSError(errno.EIO, "a broken disk")
        real(one)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="broken"):
        spool.keep_arrival(path, descriptor, "1.2.3", "ab" * 32, lambda: False)
    os.close(descriptor)
    assert list(spool.root.glob("instances/*/*")) == []


def test_what_cannot_be_flushed_takes_no_name_from_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Meanwhile another sender of the same has given the name to its own, durable file."""
    spool = Spool(tmp_path / "spool")
    spool.create()
    path, descriptor = arrived(spool, b"data")
    real = os.fsync

    def fsync(one: int) -> None:
        if one != descriptor:
            return real(one)
        again, other = arrived(spool, b"data of another")
        assert spool.keep_arrival(again, other, "1.2.3", "ab" * 32, lambda: False)
        os.close(other)
        raise OSError(errno.EIO, "a broken disk")

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="broken"):
        spool.keep_arrival(path, descriptor, "1.2.3", "ab" * 32, lambda: False)
    os.close(descriptor)
    assert spool.instance_path("1.2.3", "ab" * 32).read_bytes() == b"data of another"
