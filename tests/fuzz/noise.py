"""What a service says only when something went wrong that nobody had thought of: heard, so that it is a finding."""

import logging

from tests.fuzz.engine import Broken

UNEXPECTED = ("door.failed", "hl7.postponed", "store.failed", "worker.")


class Complaints(logging.Handler):
    """Collects errors of the node's loggers; `check` raises Broken for the first."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self._heard: list[str] = []
        logging.getLogger("dicom_node").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self._heard.append(record.getMessage())

    def check(self) -> None:
        if self._heard:
            heard, self._heard = self._heard, []
            raise Broken(f"the log says: {heard[0]}")

    def close(self) -> None:
        logging.getLogger("dicom_node").removeHandler(self)
        super().close()
