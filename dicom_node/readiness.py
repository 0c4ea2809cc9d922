"""What building reports takes besides the study: loaded when a study comes; its largest part is given back.

highdicom takes a quarter of a second and 30 MB, and stays; its table of every module's attributes (PS3.3) takes as much
again and 70 MB, once it is asked for the first time, and goes when no study comes any more. A start does without both,
and a study's job takes longer than both.
"""

import importlib
import logging
import threading
from collections.abc import Callable
from typing import Any

LOGGER = logging.getLogger(__name__)
IDLE_SECONDS = 600.0  # longer than most jobs take: what is loaded beside one is still there for its report


class Readiness:
    """Of one worker; its plan stage and its report stage call it, each in a thread of its own."""

    def __init__(self, timer: Callable[[], float]) -> None:
        self._timer, self._last = timer, timer()
        self._loaded = False

    def needed(self) -> None:
        """A study has come, or is being reported."""
        self._last = self._timer()
        if not self._loaded:
            self._loaded = True
            threading.Thread(target=self._load, name="readiness", daemon=True).start()

    def idle(self) -> None:
        """There is no report to build."""
        if self._loaded and self._timer() - self._last > IDLE_SECONDS:
            self._loaded = False
            _tables().get_module_attribute_map.cache_clear()

    def _load(self) -> None:
        try:
            importlib.import_module("dicom_node.reporter")
            _tables().get_module_attribute_map()
        except Exception as error:  # noqa: BLE001 - the report that needs it meets it again, and says so of its study
            self._loaded = False
            LOGGER.error("worker.tick_failed %s in %s", type(error).__name__, "readiness")


def _tables() -> Any:
    return importlib.import_module("highdicom._standard_utils")  # private: the version is pinned
