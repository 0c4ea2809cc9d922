"""Runs inputs of one target and judges them: documented exceptions alone, in time, in bounds, and nothing good lost."""

import faulthandler
import hashlib
import resource
import signal
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from types import FrameType
from typing import Any

ONE_INPUT_BYTES = 256_000_000  # that the process may grow by with one input
CAMPAIGN_BYTES = 400_000_000  # and from its 1000th input to the end of the target
MINIMISE_SECONDS = 3.0
STUCK_SECONDS = 300.0  # without a settlement: the process ends with a trace of all threads


class Hang(BaseException):
    """An input took too long. No `Exception`: nothing that is tried may swallow it."""


class Broken(Exception):
    """The oracle was broken by something else than an exception; the text says what."""


class Target:
    """Makes inputs and tries them. `seconds` is what one may take; `run` raises what breaks the oracle."""

    name = ""
    seconds = 5.0
    settle_every = 200  # inputs between two good objects
    cheap = True  # may be tried again a hundred times to make a finding smaller

    def make(self, random: Random) -> bytes:
        """An input; the same one for the same state of `random`."""
        raise NotImplementedError

    def run(self, data: bytes) -> None:
        """Try an input."""
        raise NotImplementedError

    def settle(self) -> int:
        """Bring good objects and see that the service answers; gives how many were lost."""
        return 0

    def close(self) -> None:
        """End what was started."""


@dataclass
class Tally:
    """What came of a target's inputs."""

    target: str
    inputs: int = 0
    crashes: int = 0
    hangs: int = 0
    memory: int = 0
    lost: int = 0
    seconds: float = 0.0
    kinds: Counter[str] = field(default_factory=Counter)

    @property
    def findings(self) -> int:
        return self.crashes + self.hangs + self.memory + self.lost


@contextmanager
def watched(seconds: float) -> Iterator[None]:
    """Raises Hang when the body takes longer. Code that is stuck in C hears nothing of it: see STUCK_SECONDS."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise Hang(f"more than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Campaign:
    """Inputs of one target. Findings are files in `corpus`: the input, and beside it what it did."""

    def __init__(self, target: Target, seed: int, corpus: Path, patience: float = 1.0) -> None:
        """`patience`: how many times as long an input may take, on a machine that does other things too."""
        self._target, self._seed, self._corpus = target, seed, corpus
        self._seconds = target.seconds * patience
        self.tally = Tally(target.name)
        self._peak, self._start = _peak(), 0
        self._last = b""
        self._of_threads: list[str] = []

    def run(self, inputs: int, until: float = float("inf")) -> Tally:
        """Try so many inputs, or as many as there is time for."""
        began = time.monotonic()
        hook, threading.excepthook = threading.excepthook, self._thread_died
        faulthandler.dump_traceback_later(STUCK_SECONDS, exit=True, file=sys.__stderr__)
        try:
            while self.tally.inputs < inputs and time.monotonic() < until:
                self._one(Random(f"{self._target.name} {self._seed} {self.tally.inputs}"))
                if self.tally.inputs % self._target.settle_every == 0:
                    self._settle()
            self._settle()
        finally:
            threading.excepthook = hook
            faulthandler.cancel_dump_traceback_later()
        if self._start and _peak() - self._start > CAMPAIGN_BYTES:
            self._found("memory", "the process grew without end", b"")
        self.tally.seconds += time.monotonic() - began
        return self.tally

    def _one(self, random: Random) -> None:
        data = self._last = self._target.make(random)
        self.tally.inputs += 1
        verdict = self.verdict(data)
        if verdict is not None:
            kind, words = verdict
            self._found(kind, words, self._smaller(data, words) if kind == "crashes" else data)
        peak = _peak()
        if peak - self._peak > ONE_INPUT_BYTES:
            self._found("memory", f"{(peak - self._peak) >> 20} MB for one input", data)
        self._peak = max(peak, self._peak)
        if self.tally.inputs == 1000:
            self._start = self._peak

    def verdict(self, data: bytes) -> tuple[str, str] | None:
        """None for an input that did no harm; else the kind of harm, and words with the place."""
        try:
            with watched(self._seconds):
                self._target.run(data)
        except Hang as error:
            return "hangs", _words(error)
        except Exception as error:  # noqa: BLE001 - what comes out here was documented by nobody
            return "crashes", _words(error)
        if self._of_threads:
            words, self._of_threads = self._of_threads[0], []
            return "crashes", words
        return None

    def _settle(self) -> None:
        faulthandler.dump_traceback_later(STUCK_SECONDS, exit=True, file=sys.__stderr__)
        try:
            with watched(60.0):
                lost = self._target.settle()
        except Hang as error:
            self._found("hangs", f"the service no longer answers: {_words(error)}", self._last)
            return
        except Exception as error:  # noqa: BLE001
            self._found("crashes", f"the service no longer answers: {_words(error)}", self._last)
            return
        if lost:
            self._found("lost", f"{lost} good objects lost", self._last, lost)

    def _smaller(self, data: bytes, words: str) -> bytes:
        """Pieces are left out while the same thing happens."""
        end, piece = time.monotonic() + MINIMISE_SECONDS, len(data) // 2
        while self._target.cheap and piece and time.monotonic() < end:
            at = 0
            while at < len(data) and time.monotonic() < end:
                without = data[:at] + data[at + piece :]
                if self.verdict(without) == ("crashes", words):
                    data = without
                else:
                    at += piece
            piece //= 2
        return data

    def _found(self, kind: str, words: str, data: bytes, count: int = 1) -> None:
        setattr(self.tally, kind, getattr(self.tally, kind) + count)
        first = words.splitlines()[0]
        self.tally.kinds[first] += 1
        if self.tally.kinds[first] > 3:
            return
        self._corpus.mkdir(parents=True, exist_ok=True)
        name = f"{self._target.name.replace(' ', '-')}-{hashlib.sha256(data).hexdigest()[:12]}"
        (self._corpus / name).write_bytes(data)
        (self._corpus / f"{name}.txt").write_text(f"{kind}: {words}\n", encoding="utf-8", errors="replace")
        print(f"{self._target.name}: {kind}: {first} ({self._corpus / name})", file=sys.stderr, flush=True)

    def _thread_died(self, what: Any) -> None:
        self._of_threads.append(f"thread: {_words(what.exc_value)}")


def _words(error: BaseException | None) -> str:
    """Kind, and the place in our code that is nearest; then the trace."""
    assert error is not None
    frames = traceback.extract_tb(error.__traceback__)
    ours = [one for one in frames if "site-packages" not in one.filename and "/lib/python" not in one.filename]
    place = f"{Path(ours[-1].filename).name}:{ours[-1].lineno} {ours[-1].name}" if ours else "?"
    text = "".join(traceback.format_exception(error))
    told = f" {error}"[:200] if isinstance(error, (Broken, Hang)) else ""
    return f"{type(error).__module__}.{type(error).__qualname__}{told} at {place}\n{text}"


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
