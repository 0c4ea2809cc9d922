"""What the node's processes say of themselves, and when each peer was last heard of. Reached as `store.vitals`."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from dicom_node.database import Database

BEAT_SECONDS = 60.0
GONE_SECONDS = 3 * BEAT_SECONDS  # a process that has said nothing for so long has ended
PARTS = ("receive", "work", "run")  # what a node consists of, in one process or in three


@dataclass(frozen=True)
class Component:
    """A process of the node: `seen_at` is renewed each minute, so an old one is of a process that is gone."""

    component: str
    version: str
    started_at: float
    seen_at: float
    facts: Mapping[str, Any]

    @property
    def ended_at(self) -> float | None:
        """When it said that it ends; None where it runs, or went without a word."""
        return self.facts.get("ended")

    @property
    def gone(self) -> bool:
        """Whether it can be seen from here that it is not there any more.

        Its facts say where it runs, and under which number: whoever asks from the same place need not wait. Another
        container has numbers of its own, and says nothing.
        """
        where, _, number = str(self.facts.get("process", "")).rpartition(" ")
        if not where or where != _place() or not number.isdecimal():
            return False
        try:
            os.kill(int(number), 0)
        except ProcessLookupError:
            return True
        except (OSError, OverflowError):  # it is there, and of another user
            pass
        return False

    def alive(self, now: float) -> bool:
        return self.ended_at is None and now - self.seen_at < GONE_SECONDS and not self.gone


@dataclass(frozen=True)
class Contact:
    """The last time that a peer sent to us, took something from us, or answered (or did not answer) a C-ECHO."""

    peer: str
    kind: Literal["received", "delivered", "echo"]
    at: float
    well: bool
    detail: str


def _place() -> str:
    """Host and PID namespace; "" where they cannot be told. Not /proc/PID nor the boot's ID: units hide both."""
    try:
        return f"{os.uname().nodename} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


_INSTEAD = {"serve": ("receive", "work", "run"), **dict.fromkeys(("receive", "work", "run"), ("serve",))}
_SETTINGS = "@"  # before the name of a process: a row that says which settings it goes by
_COMPONENT = "component, version, started_at, seen_at, facts"


class Vitals:
    """The tables node_status and peer_contact; triggers on `instance` and `delivery` write most of the latter."""

    def __init__(self, database: Database) -> None:
        self._db = database

    def beat(self, component: str, version: str, started_at: float, now: float, facts: Mapping[str, Any]) -> None:
        """Say that a process is alive, and what it knows of itself."""
        place = _place()
        here = {"process": f"{place} {os.getpid()}"} if place else {}
        text = json.dumps({**facts, **here}, ensure_ascii=False, sort_keys=True)
        self._db.execute(
            f"INSERT OR REPLACE INTO node_status ({_COMPONENT}) VALUES (?, ?, ?, ?, ?)",
            [component, version, started_at, now, text],
        )

    def echoed(self, peer: str, well: bool, detail: str, now: float) -> None:
        """How a C-ECHO to a peer went."""
        self._db.execute(
            "INSERT OR REPLACE INTO peer_contact (peer, kind, at, well, detail) VALUES (?, 'echo', ?, ?, ?)",
            [peer, now, int(well), detail],
        )

    def ended(self, process: str, begun: float, now: float) -> None:
        """A process that began then ends with a word: what it consisted of is not at work any more.

        What an older one of the same name does, whose spool it could not have, goes on.
        """
        known = {one.component: one for one in self._rows()}
        parts = {"serve": PARTS, "work": ("work", "run")}.get(process, (process,))
        if process == "work" and "work" in known and known["work"].facts.get("jobs") == "apart":
            parts = ("work",)
        for one in (known[name] for name in (*parts, f"{_SETTINGS}{process}") if name in known):
            if one.started_at >= begun:
                self.beat(one.component, one.version, one.started_at, one.seen_at, {**one.facts, "ended": now})

    def silent(self, now: float) -> list[Component]:
        """What has run with this store, and does not any more."""
        return [one for one in self.components() if one.component in PARTS and not one.alive(now)]

    def page(self) -> Component | None:
        """The worklist page, which does not beat: whether it has begun here, and ended."""
        return next((one for one in self._rows() if one.component == f"{_SETTINGS}web"), None)

    def components(self) -> list[Component]:
        return [one for one in self._rows() if not one.component.startswith(_SETTINGS)]

    def took_settings(self, process: str, version: str, now: float, refused: str = "") -> None:
        """Which settings a process goes by: those that it has read now, or those before, and why these are refused."""
        self.beat(f"{_SETTINGS}{process}", version, now, now, {"refused": refused})
        for other in _INSTEAD.get(process, ()):  # what was said before the node was divided otherwise
            self._db.execute("DELETE FROM node_status WHERE component = ?", [f"{_SETTINGS}{other}"])

    def refusals(self) -> dict[str, str]:
        """Process -> why its last reload was refused; since then it goes by the settings from before."""
        found = {one.component.removeprefix(_SETTINGS): one for one in self._rows() if one.component[0] == _SETTINGS}
        return {name: str(one.facts["refused"]) for name, one in found.items() if one.facts.get("refused")}

    def _rows(self) -> list[Component]:
        rows = self._db.rows(f"SELECT {_COMPONENT} FROM node_status ORDER BY component")
        return [Component(**{**row, "facts": json.loads(row["facts"])}) for row in rows]

    def component(self, name: str) -> Component | None:
        """What one process says of itself; None before its first start."""
        return next((one for one in self.components() if one.component == name), None)

    def contacts(self) -> list[Contact]:
        rows = self._db.rows("SELECT peer, kind, at, well, detail FROM peer_contact ORDER BY peer, kind")
        return [Contact(**{**row, "well": bool(row["well"])}) for row in rows]

    def oldest(self) -> dict[str, float]:
        """State -> when the oldest of its work items came; of the states that are not an end."""
        rows = self._db.rows(
            "SELECT state, created_at FROM work_item WHERE id IN (SELECT min(id) FROM work_item"
            " WHERE state IN ('WAITING', 'SCHEDULED', 'ANALYSED', 'REPORTED', 'FAILED') GROUP BY state)"
        )
        return {row["state"]: row["created_at"] for row in rows}

    def held(self) -> int:
        return int(self._db.rows("SELECT count(*) AS n FROM work_item WHERE held = 1")[0]["n"])
