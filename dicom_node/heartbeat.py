"""The worker says each minute that it is alive and how jobs are kept apart, and asks each destination for a C-ECHO."""

from collections.abc import Callable, Mapping
from typing import Any

from config.identity import VERSION
from config.settings import Peer, Settings
from dicom_node import deliver
from dicom_node.store import Store

ECHO_SECONDS = 300.0


class Heartbeat:
    """`beat` and `echo` are called by the worker's clock; each opens what it needs through `store`."""

    def __init__(
        self, settings: Settings, store: Callable[[], Store], facts: Mapping[str, Any], clock: Callable[[], float]
    ) -> None:
        self._store, self._facts, self._clock = store, facts, clock
        self._started = clock()
        self._round: tuple[Settings, list[Peer]] = settings, []  # one value: a reload comes in another thread

    def go_on_with(self, settings: Settings) -> None:
        """Ask the destinations of these settings."""
        self._round = settings, []

    def beat(self) -> bool:
        """Write the worker's row. False: there is no more to do now."""
        self._store().vitals.beat("work", VERSION, self._started, self._clock(), self._facts)
        return False

    def echo(self) -> bool:
        """C-ECHO to the next destination, so that an outage shows before a study is due. False after the last one."""
        settings, to_ask = self._round
        if not to_ask:
            to_ask += settings.destinations()
        if to_ask:
            peer = to_ask.pop()
            answer = deliver.echo(peer, settings)
            text = answer.message if answer.ok else f"{answer.message}; {answer.hint}"
            self._store().vitals.echoed(peer.ae_title, answer.ok, text, self._clock())
        return bool(to_ask)
