"""Keeps what the DICOM libraries say out of the node's logs: their texts quote values from the network (PHI).

Leaf of the node: standard library and pydicom's settings. `receive` and `deliver` call it before they open a socket.
"""

import logging
import warnings

import pydicom.config

LOGGER = logging.getLogger(__name__)
LIBRARIES = ("pynetdicom", "pydicom", "highdicom", "httpx", "httpcore")  # httpx logs URLs, which hold patient IDs


SAID_ALREADY = "pynetdicom.transport"  # a peer that cannot be reached: the node says it, and better


class _PlaceOnly(logging.Filter):
    """Rewrites a record to say where a library complained, and of what kind; INFO, and dropped where that is off."""

    def filter(self, record: logging.LogRecord) -> bool:
        kind = record.exc_info[0] if record.exc_info else None
        record.msg = "library.complained %s line %d, %s; its text is left out, for it may quote patient data"
        record.args = (record.name, record.lineno, kind.__name__ if kind else record.levelname.lower())
        record.exc_info, record.exc_text, record.stack_info = None, None, None
        record.levelno = logging.DEBUG if record.name == SAID_ALREADY else logging.INFO
        record.levelname = logging.getLevelName(record.levelno)
        return LOGGER.isEnabledFor(record.levelno)


_done: list[object] = []  # the loggers and warnings as they were when all had been set


def _now() -> list[object]:
    return [len(logging.root.manager.loggerDict), *warnings.filters[:1]]


def quiet_libraries() -> None:
    """Set the DICOM libraries' logging and warnings, for the whole process. Safe to call again.

    Their warnings name the offending value: those are dropped. Log records of WARNING and above become one line that
    names module and line (INFO; DEBUG for connections that failed); what an operator needs to know is logged by the
    node in its own words.
    """
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    if _done == _now():  # the usual case: this is called for each object that arrives
        return
    warnings.filterwarnings("ignore", category=UserWarning, module=r"(pydicom|pynetdicom)\b")
    for library in LIBRARIES:
        logging.getLogger(library).setLevel(logging.WARNING)
        # Filters are not inherited, so each module's logger needs its own; all exist once the library is imported.
        for name in [n for n in logging.root.manager.loggerDict if n == library or n.startswith(f"{library}.")]:
            logger = logging.getLogger(name)
            if not any(isinstance(known, _PlaceOnly) for known in logger.filters):
                logger.addFilter(_PlaceOnly())
    _done[:] = _now()
