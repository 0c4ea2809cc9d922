"""What reports are built with is there while studies come, and given back afterwards."""

import logging
import time
from typing import Any

import pytest
from highdicom._standard_utils import get_module_attribute_map

from dicom_node import readiness as module
from dicom_node.readiness import IDLE_SECONDS, Readiness


def _tables_read() -> int:
    return get_module_attribute_map.cache_info().currsize


def test_the_table_is_read_when_a_study_comes_and_given_back_when_none_has_come_for_long() -> None:
    now = 1000.0
    get_module_attribute_map.cache_clear()
    readiness = Readiness(lambda: now)
    readiness.idle()
    assert _tables_read() == 0
    readiness.needed()
    while not _tables_read():  # in another thread; the test's own time limit ends it
        time.sleep(0.01)
    now += IDLE_SECONDS
    readiness.idle()
    assert _tables_read() == 1
    now += 1
    readiness.idle()
    assert _tables_read() == 0
    readiness.needed()
    while not _tables_read():
        time.sleep(0.01)


def test_what_cannot_be_loaded_is_said_by_its_type_and_tried_again_with_the_next_study(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried: list[int] = []

    def no_memory() -> Any:
        tried.append(1)
        raise MemoryError("what it was given")

    monkeypatch.setattr(module, "_tables", no_memory)
    readiness = Readiness(lambda: 1000.0)
    for count in (1, 2):
        readiness.needed()
        while readiness._loaded:
            time.sleep(0.01)
        assert len(tried) == count
    for thread in module.threading.enumerate():
        if thread.name == "readiness":
            thread.join()
    said = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.getMessage() for record in said] == ["worker.tick_failed MemoryError in readiness"] * 2
    assert not any(record.exc_info for record in said)
