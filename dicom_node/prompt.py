"""How soon a thread that wakes up gets a processor while all of them are busy.

Linux lets a task that it has just begun to run go on until the next tick, some milliseconds, however low its weight,
unless the one that wakes asks for shorter slices of time. A receiver sleeps a dozen times for each object, until bytes
have come or the disk has flushed. Its share of the processors is the same either way (docs/performance.md).
"""

import ctypes
import os
import struct

SLICE_NANOSECONDS = 100_000  # the least that the kernel takes
_ATTRIBUTES = struct.Struct("=IIQiIQQQII")  # struct sched_attr of sched_setattr(2), with two words for clamping
_CALL_NUMBERS = {"x86_64": 314, "aarch64": 274}  # glibc knows it from 2.41 on


def ask_for_short_slices() -> bool:
    """For this thread, and those that it starts from now on. False where a filter of system calls forbids it.

    A kernel before 6.12 takes it and does nothing about it.
    """
    number, policy = _CALL_NUMBERS.get(os.uname().machine), os.sched_getscheduler(0)
    if number is None or policy not in (os.SCHED_OTHER, os.SCHED_BATCH):
        return False
    niceness = os.getpriority(os.PRIO_PROCESS, 0)
    wanted = _ATTRIBUTES.pack(_ATTRIBUTES.size, policy, 0, niceness, 0, SLICE_NANOSECONDS, 0, 0, 0, 0)
    return bool(ctypes.CDLL(None).syscall(ctypes.c_long(number), 0, wanted, 0) == 0)
