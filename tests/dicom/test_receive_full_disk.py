"""A disk that fills up: objects are answered with A700 before it is full, counted over all associations at once."""

import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from config.keeping import Storage
from config.settings import Settings
from dicom_node import incoming
from dicom_node.watermark import Disk, room
from tests.network import SENDER, association, files, receiving, rows, settings_for, store_file
from tests.small_disk import fill, small_disk
from tests.synthetic import CT, ct_series, save_all

MEGABYTE = 1 << 20


def large(folder: Path, count: int) -> list[Path]:
    """CT of 2 MB each; what they show is not looked at."""
    made = ct_series(count, 8, 8, seed=3)
    for image in made:
        image.Rows = image.Columns = 1024
        image.PixelData = bytes(2 * 1024 * 1024)
    return save_all(made, folder)


def test_eight_associations_at_once_leave_the_reserve_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(incoming, "ROOM_BYTES", 4 * MEGABYTE)
    paths = large(tmp_path / "sent", 24)
    answers: list[int | None] = []
    lowest = [1 << 60]
    with small_disk(tmp_path / "disk", 60) as disk:
        reserve = 30 * MEGABYTE
        settings = settings_for(reserve_disk_bytes=reserve)
        with receiving(disk, settings) as (receiver, spool):
            stop = threading.Event()

            def watch() -> None:
                while not stop.wait(0.005):
                    lowest[0] = min(lowest[0], shutil.disk_usage(disk).free)

            def send(mine: list[Path]) -> None:
                with association(receiver.port, [CT], calling=SENDER) as made:
                    answers.extend(store_file(made, path)[0] for path in mine)

            watcher = threading.Thread(target=watch)
            watcher.start()
            senders = [threading.Thread(target=send, args=(paths[n::8],)) for n in range(8)]
            for sender in senders:
                sender.start()
            for sender in senders:
                sender.join()
            stop.set()
            watcher.join()
            assert set(answers) == {0x0000, 0xA700}
            assert answers.count(0x0000) == len(files(spool)) == len(rows(spool))
            assert list(spool.incoming.iterdir()) == []
        assert lowest[0] >= reserve, "not even for a moment"


def test_a_disk_that_is_full_to_the_last_byte_takes_nothing_and_loses_nothing(tmp_path: Path) -> None:
    paths = save_all(ct_series(4, 128, 128, seed=3), tmp_path / "sent")
    with small_disk(tmp_path / "disk", 40) as disk:
        settings = replace(settings_for(reserve_disk_bytes=0), storage=Storage(refuse_free_percent=0.0))
        with receiving(disk, settings) as (receiver, spool):
            with association(receiver.port, [CT]) as made:
                assert store_file(made, paths[0])[0] == 0x0000
                filler = fill(disk, left=0)
                assert store_file(made, paths[1])[0] == 0xA700
            assert len(files(spool)) == 1
            assert list(spool.incoming.iterdir()) == []
            filler.unlink()
            with association(receiver.port, [CT]) as made:
                assert [store_file(made, path)[0] for path in paths] == [0x0000] * 4
            assert len(files(spool)) == len(rows(spool)) == 4


def test_the_higher_of_two_watermarks_counts(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 100) as disk:
        total = shutil.disk_usage(disk).total
        limits = Storage(warn_free_bytes=0, warn_free_percent=50.0, refuse_free_percent=20.0)
        settings = replace(Settings(), storage=limits, receive=replace(Settings().receive, reserve_disk_bytes=1))
        assert (room(disk, settings).warn, room(disk, settings).refuse) == (total // 2, total // 5)
        assert not room(disk, settings).low
        fill(disk, left=40 * MEGABYTE)
        assert room(disk, settings).low
        assert not room(disk, settings).full
        fill(disk, left=10 * MEGABYTE)
        assert room(disk, settings).full
        byte_limits = replace(settings, receive=replace(settings.receive, reserve_disk_bytes=60 * MEGABYTE))
        assert room(disk, byte_limits).refuse == 60 * MEGABYTE


def test_what_was_promised_comes_back(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 100) as folder:
        settings = replace(settings_for(reserve_disk_bytes=50 * MEGABYTE), storage=Storage(refuse_free_percent=0.0))
        disk = Disk(folder, settings)
        taken = 0
        while disk.take(MEGABYTE):
            taken += 1
        assert 45 <= taken <= 50
        disk.give(MEGABYTE)
        assert disk.take(MEGABYTE)
        assert not disk.take(MEGABYTE)
