"""What the node says to systemd (sd_notify(3)), and the listening sockets it gets from it (sd_listen_fds(3)).

Leaf of the node: standard library only. Nothing happens where systemd has not asked for it: NOTIFY_SOCKET, LISTEN_FDS.
"""

import contextlib
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

PULSE_SECONDS = 10.0
STUCK_SECONDS = 60.0  # a part of the node that has done nothing for so long does not work any more
_DONE = b"\0"  # beside the numbers of signals: a reload has ended
_FIRST = 3  # SD_LISTEN_FDS_START
_taken: set[str] = set()
_hung_up: list[int] = []


class Part(Protocol):
    """A part of a process, such as the receiver."""

    def pulse(self) -> tuple[bool, str]:
        """Whether it still works, and what to say of it: no name, no identifier."""


def say(*lines: str) -> None:
    """Send lines such as "READY=1" or "STATUS=..." to the service manager, if there is one."""
    name = os.environ.get("NOTIFY_SOCKET", "")
    if not name.startswith(("/", "@")):
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.connect("\0" + name[1:] if name[0] == "@" else name)
        sender.send("\n".join(lines).encode())


def pulse(parts: Sequence[Part], *first: str) -> None:
    """Say how the parts are; the watchdog hears nothing while one of them is stuck, and systemd starts us again."""
    found = [part.pulse() for part in parts]
    status = "; ".join(words if well else f"STUCK: {words}" for well, words in found)
    alive = ["WATCHDOG=1"] if all(well for well, _ in found) else []
    say(*first, f"STATUS={status}", *alive)


def hear_hang_ups() -> None:
    """From here on SIGHUP does not end the process: what comes while it starts is a reload once it has started."""
    signal.signal(signal.SIGHUP, lambda *_: _hung_up.append(signal.SIGHUP))


def was_hung_up() -> bool:
    """Whether one came since `hear_hang_ups`; it is told once."""
    came = bool(_hung_up)
    _hung_up.clear()
    return came


def pulse_until_signal(parts: Sequence[Part], reload: Callable[[], object] = lambda: None) -> None:
    """Say READY, pulse until SIGTERM or SIGINT, say STOPPING; `reload` at each SIGHUP. Call it in the main thread.

    A reload, which may try a bundle for minutes, has a thread of its own: the watchdog hears of us meanwhile.
    A pipe wakes it: threading.Event.wait was seen to sleep on for its whole time when a signal came.
    """
    asleep, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)  # first: no signal is lost that a handler has taken
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    pulse(parts, "READY=1")
    if was_hung_up():
        os.write(wake, bytes([signal.SIGHUP]))
    wanted, free, ending = False, threading.Event(), threading.Event()
    free.set()

    def turn() -> None:
        try:
            reloading(reload, ending)
        finally:
            free.set()
            os.write(wake, _DONE)

    while True:
        came = {*os.read(asleep, 4096)} if select.select([asleep], [], [], PULSE_SECONDS)[0] else set()
        wanted = wanted or signal.SIGHUP in came
        if came - {signal.SIGHUP, *_DONE} or (signal.SIGHUP in came and terminal_is_gone()):
            break
        if wanted and free.is_set():
            wanted = False
            free.clear()
            threading.Thread(target=turn, name="reload", daemon=True).start()
        pulse(parts)
    ending.set()
    say("STOPPING=1", "STATUS=ending what is at work")


def reloading(reload: Callable[[], object], ending: threading.Event | None = None) -> None:
    """Around a reload, for the service manager; where the process is `ending` meanwhile, it is not READY again."""
    say("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
    try:
        reload()
    finally:
        if ending is None or not ending.is_set():
            say("READY=1")


def terminal_is_gone() -> bool:
    """Whether a SIGHUP means what it meant first: the terminal that the process was started at has been closed."""
    try:
        if os.isatty(0):
            os.tcgetpgrp(0)
        return False
    except OSError:
        return True


def _names() -> list[str]:
    """Names (FileDescriptorName=) of the sockets that systemd has passed to this very process."""
    if os.environ.get("LISTEN_PID") != str(os.getpid()):
        return []
    count = os.environ.get("LISTEN_FDS", "0")
    names = os.environ.get("LISTEN_FDNAMES", "").split(":")
    return [names[place] if place < len(names) else "" for place in range(int(count) if count.isdigit() else 0)]


def passed(name: str) -> socket.socket | None:
    """The listening socket of that name; None where there is none, and the caller opens its own.

    It outlives the process: close it, but never shut it down; callers wait in it until the next start.
    """
    names = _names()
    if name not in names:
        return None
    _taken.add(name)
    descriptor = os.dup(_FIRST + names.index(name))  # not inheritable; the first one stays for another start
    os.set_inheritable(_FIRST + names.index(name), False)
    return socket.socket(fileno=descriptor)


def unused() -> list[str]:
    """Names of passed sockets that nobody has taken: whoever calls there waits in vain."""
    return sorted({*_names()} - _taken)
