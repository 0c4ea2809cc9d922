"""Keeps what the DICOM libraries say out of the node's logs: their texts quote values from the network (PHI).

Leaf of the node: standard library and pydicom's settings. `receive` and `deliver` call it before they open a socket.
"""

import logging
import warnings

import pydicom.config

LOGGER = logging.getLogger(__name__)
LIBRARIES = ("pynetdicom", "pydicom")


class _PlaceOnly(logging.Handler):
    """Says where a library complained, and of what kind, never its text."""

    def emit(self, record: logging.LogRecord) -> None:
        kind = record.exc_info[0] if record.exc_info else None
        LOGGER.info(
            "library.complained %s line %d (%s)%s; its text is left out, for it may quote patient data",
            record.name,
            record.lineno,
            record.levelname.lower(),
            f" {kind.__name__}" if kind else "",
        )


def quiet_libraries() -> None:
    """Set pydicom's and pynetdicom's logging and warnings, for the whole process. Safe to call again.

    Their warnings name the offending value: those are dropped. Log records of WARNING and above become one INFO line
    of ours that names module and line; what an operator needs to know is logged by the node in its own words.
    """
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    warnings.filterwarnings("ignore", category=UserWarning, module=r"(pydicom|pynetdicom)\b")
    for name in LIBRARIES:
        library = logging.getLogger(name)
        library.setLevel(logging.WARNING)
        library.propagate = False
        if not any(isinstance(handler, _PlaceOnly) for handler in library.handlers):
            library.handlers[:] = [_PlaceOnly()]
