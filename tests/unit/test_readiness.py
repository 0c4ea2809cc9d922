"""What reports are built with is there while studies come, and given back afterwards."""

import time

from highdicom._standard_utils import get_module_attribute_map

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
