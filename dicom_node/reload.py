"""Settings read again by a process that runs (SIGHUP, `systemctl reload`): taken over whole, or not at all."""

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from config.effective import not_there
from config.identity import VERSION
from config.reload import compare
from config.settings import Settings, SettingsError, document, load
from dicom_node.audit import AuditEntry, AuditOutcome
from dicom_node.spool import Spool
from dicom_node.store import Store
from dicom_node.tls import complaints
from dicom_node.workitem import ConfigError, StageError, StoreBusy
from models.errors import BundleError

LOGGER = logging.getLogger(__name__)


class Reloadable(Protocol):
    """A part of a process that can go on with other settings."""

    def ready_for(self, settings: Settings) -> Callable[[], None]:
        """Make everything ready that may fail, and give what puts it in force, which must not.

        Raises ConfigError, StageError, BundleError or OSError where these settings cannot be used.
        """


class Reloader:
    """`reload` reads the settings again; `process` is its name in the audit trail."""

    def __init__(
        self,
        config: Path | None,
        settings: Settings,
        spool: Spool,
        process: str,
        parts: Sequence[Reloadable],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._config, self._settings, self._spool, self._process = config, settings, spool, process
        self._parts, self._clock = parts, clock
        self._putting, self._ended = threading.Lock(), False

    def reload(self) -> bool:
        """Whether the settings are in force; where not, all is as it was, and the log says why."""
        try:
            return self._reload()
        except Exception as error:  # a bug; its text may quote anything
            name = type(error).__name__
            LOGGER.error("settings.refused a bug in the reload (%s); restart the process", name)
            LOGGER.debug("settings.refused", exc_info=True)
            self._record("failed", f"reload: {name}", f"a bug in the reload ({name}); restart the process")
            return False

    def end(self) -> None:
        """The process ends: what is still being made ready for a reload is not put in force any more."""
        with self._putting:
            self._ended = True

    def _reload(self) -> bool:
        try:
            change = compare(self._settings, load(self._config, os.environ))
            self._refuse_what_is_half_written(change.settings)
            put_in_force = [part.ready_for(change.settings) for part in self._parts]
        except (SettingsError, ConfigError, StageError, BundleError, OSError) as error:
            hint = f"; {error.hint}" if isinstance(error, StageError) else ""
            LOGGER.error("settings.refused the settings stay as they were: %s%s", error, hint)
            self._record("failed", f"reload: {error}", f"{error}{hint}")
            return False
        with self._putting:
            if self._ended:
                return False
            for put in put_in_force:
                put()
            self._settings = change.settings
        logging.getLogger().setLevel(change.settings.telemetry.log_level)
        taken = ", ".join(change.taken) or "nothing new"
        LOGGER.info("settings.reloaded in force now: %s", taken)
        for sentence in change.waiting:
            LOGGER.warning("settings.restart_needed %s", sentence)
        self._look(change.settings)
        waits = f"; after a restart: {', '.join(one.split()[0] for one in change.waiting)}" if change.waiting else ""
        self._record("done", f"reload: {taken}{waits}")
        return True

    def _refuse_what_is_half_written(self, new: Settings) -> None:
        """An empty file, or the first half of one, is good TOML that turns every sender away. Raises SettingsError."""
        beside = "the settings in force stay; write the new file beside it and rename it"
        if self._config and new != self._settings and not document(self._config):
            raise SettingsError(f"{self._config}: the file is empty: {beside}")
        if self._settings.peers and not new.peers:
            raise SettingsError(f"{self._config}: no [[peers]] is left: {beside}, or restart if no peer is meant")

    def _look(self, settings: Settings) -> None:
        """What is said at the start, too."""
        for key, path in not_there(settings):
            LOGGER.warning("settings.file_missing %s: %s is not there, or not to be read", key, path)
        with suppress(ConfigError):  # a process that has no use for them need not be able to read them
            for complaint in complaints(settings.tls, self._clock()):
                LOGGER.warning("tls.certificate %s", complaint)

    def _record(self, outcome: AuditOutcome, detail: str, refused: str = "") -> None:
        try:
            store = Store.open(self._spool.store)
            store.vitals.took_settings(self._process, VERSION, self._clock(), refused)
            store.audit.add(
                AuditEntry(self._clock(), self._process, "node", "settings.changed", outcome, detail=detail[:500])
            )
            store.close()
        except (StoreBusy, ConfigError, OSError) as error:
            LOGGER.error("store.failed %s; an entry of the audit trail is missing", type(error).__name__)
