"""What the receiver has counted since its start: associations, objects and bytes by peer. For the metrics; no PHI."""

import threading
from collections import Counter

from config.settings import Settings

OTHERS = "(others)"  # callers that are no peer of the settings: their names are theirs to choose, so not ours to list


class Traffic:
    """Counters of one receiver; its associations' threads add to them."""

    def __init__(self, settings: Settings) -> None:
        self.go_on_with(settings)
        self._lock = threading.Lock()
        self._counts: dict[str, Counter[str]] = {}

    def go_on_with(self, settings: Settings) -> None:
        """Know the peers of these settings by name."""
        self._known = {peer.ae_title.strip() for peer in settings.peers}

    def add(self, calling: str, **counts: int) -> None:
        """Count for a calling AE title: associations, objects, bytes, refused (objects)."""
        name = calling.strip()
        with self._lock:
            known = self._counts.setdefault(name if name in self._known else OTHERS, Counter())
            for what, count in counts.items():
                known[what] += count

    def facts(self) -> dict[str, dict[str, int]]:
        """Calling AE title -> what -> how often."""
        with self._lock:
            return {name: dict(counts) for name, counts in sorted(self._counts.items())}

    def total(self, what: str) -> int:
        with self._lock:
            return sum(counts[what] for counts in self._counts.values())
