"""FHIR servers at work: open questions about patients are asked, one after the other, and the values recorded.

A step of its own in the worker, so that a server that does not answer keeps no study from being analysed; a study
waits for it no longer than `clinical_sources` allows.
"""

import logging
from collections.abc import Callable

from config.settings import FhirServer, Settings
from dicom_node import clinical_codes, clinical_intake, fhir_in
from dicom_node.clinical_intake import Feed
from dicom_node.clinical_pulls import Pull
from dicom_node.fhir_client import LOOK
from dicom_node.store import Store
from dicom_node.workitem import Permanent, StageError, StoreBusy

LOGGER = logging.getLogger(__name__)
FIRST_DELAY_SECONDS, LONGEST_DELAY_SECONDS = 5.0, 3600.0
LONGEST_HOLD_SECONDS = 60.0


class ClinicalFetch:
    """Asks the servers. `clock` in seconds since the epoch."""

    def __init__(self, settings: Settings, clock: Callable[[], float]) -> None:
        self._servers = {server.name: server for server in settings.fhir_servers if server.clinical_values}
        self._codes = clinical_codes.load(settings.clinical.codes)
        self._clock = clock
        self._failures: dict[str, int] = {}  # in a row, by server
        self._held_until: dict[str, float] = {}

    def fetch_due(self, store: Store) -> bool:
        """Ask the question that has been open longest. False when none is due."""
        now = self._clock()
        ready = [name for name in self._servers if self._held_until.get(name, 0.0) <= now]
        pull = store.pulls.due(now, ready) if ready else None
        if pull is None:
            return False
        server = self._servers[pull.server]
        try:
            answer = fhir_in.ask(server, pull.patient_id, pull.issuer_of_patient_id, self._codes)
            self._record(store, server, answer)
        except StoreBusy:
            raise
        except StageError as error:
            self._failed(store, pull, error)
        except Exception as error:  # the boundary: an answer that is odd in a new way must not stop the other servers
            LOGGER.debug("fhir.unavailable", exc_info=True)
            self._failed(store, pull, Permanent(f"its answer cannot be read ({type(error).__name__})", LOOK))
        else:
            self._failures.pop(server.name, None)
            store.pulls.answered(pull, self._clock(), answer.detail)
        return True

    def _record(self, store: Store, server: FhirServer, answer: fhir_in.Answer) -> None:
        feed = Feed("fhir", "FHIR Observation", server.name)
        seen = clinical_intake.take(store.clinical, self._codes, answer.observations, feed, self._clock())
        told = clinical_intake.take_diagnoses(
            store.clinical, self._codes, answer.conditions, Feed("fhir", "FHIR Condition", server.name), self._clock()
        )
        LOGGER.info(
            "fhir.read %s: %d values new, %d unchanged, %d taken back",
            server.name,
            seen.recorded + told.recorded,
            seen.unchanged + told.unchanged,
            seen.retracted + told.retracted,
        )
        for name, why in sorted({(each.name, each.why) for each in (*seen.refused, *told.refused)}):
            LOGGER.warning("fhir.value_refused %s: %s is not taken: %s", server.name, name, why)

    def _failed(self, store: Store, pull: Pull, error: StageError) -> None:
        """The question is asked again later; the server is left alone for a while, for each try costs its time-out."""
        now = self._clock()
        count = self._failures[pull.server] = self._failures.get(pull.server, 0) + 1
        self._held_until[pull.server] = now + min(2.0 ** min(count, 10), LONGEST_HOLD_SECONDS)
        wait = min(FIRST_DELAY_SECONDS * 2.0 ** min(pull.attempts, 20), LONGEST_DELAY_SECONDS)
        store.pulls.failed(pull, now + wait, str(error))
        LOGGER.warning("fhir.unavailable %s: %s; %s", pull.server, error, error.hint)
