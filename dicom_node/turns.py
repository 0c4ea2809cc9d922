"""How long the present turn of each stage has been running: one that never ends goes unseen while the others turn."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from config.settings import Settings
from dicom_node.notify import STUCK_SECONDS

MARGIN_SECONDS = 300.0  # around a job: it waits for its twin, its files are laid out, its results are taken
ANSWERS = 20  # of a peer in one turn of delivery, each as late as it may be; there are fewer objects
LONGEST_SECONDS = 1800.0  # of every other turn: all of them work in small portions


def bounds(settings: Settings) -> dict[str, float]:
    """The longest turn, in seconds, of the stages that wait for something whose patience is in the settings."""
    patience = settings.receive
    answer = settings.deliver.connect_timeout_seconds + patience.acse_timeout_seconds + patience.dimse_timeout_seconds
    job = settings.job.answer_seconds + MARGIN_SECONDS
    return {
        "analyse": job,
        "golden": max(job, LONGEST_SECONDS),
        "deliver": max(ANSWERS * answer, LONGEST_SECONDS),
    }


class Turns:
    """Of the stages of one process, each in its own thread; several of one kind are "analyse-0", "analyse-1" and so on.

    `timer`: seconds that only grow.
    """

    def __init__(self, longest: Mapping[str, float], timer: Callable[[], float] = time.monotonic) -> None:
        self._longest, self._timer = longest, timer
        self._began: dict[str, float] = {}
        self._last = timer()

    def allow(self, longest: Mapping[str, float]) -> None:
        """Other bounds from now on."""
        self._longest = longest

    @contextmanager
    def turn(self, stage: str) -> Iterator[None]:
        """Around one turn of a stage."""
        self._last = self._began[stage] = self._timer()
        try:
            yield
        finally:
            del self._began[stage]

    def stuck(self) -> list[str]:
        """What does not work any more, in words: stages over their bound, or that none begins a turn."""
        now = self._timer()
        found = [
            f"{stage} for {now - began:.0f} s (at most {longest:.0f} s)"
            for stage, began in sorted(self._began.copy().items())
            if now - began >= (longest := self._longest.get(stage.partition("-")[0], LONGEST_SECONDS))
        ]
        if now - self._last >= STUCK_SECONDS:
            found.append(f"no stage has had a turn for {now - self._last:.0f} s")
        return found
