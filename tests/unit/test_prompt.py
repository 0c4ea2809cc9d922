"""A receiver's threads ask the kernel for short slices of time."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dicom_node.prompt import SLICE_NANOSECONDS

KERNEL = tuple(int(word) for word in os.uname().release.split("-")[0].split(".")[:2])
SAYS = """
import os, threading
from dicom_node.prompt import ask_for_short_slices

wanted = os.nice(3)
done = ask_for_short_slices()

def say():
    lines = open(f"/proc/self/task/{threading.get_native_id()}/sched").read().splitlines()
    found = [line.split()[-1] for line in lines if line.startswith("se.slice ")]
    print(done, os.getpriority(os.PRIO_PROCESS, 0), wanted, *found)

thread = threading.Thread(target=say)
thread.start()
thread.join()
"""


@pytest.mark.skipif(not Path("/proc/self/sched").exists(), reason="this kernel tells nothing of its scheduler")
@pytest.mark.skipif(KERNEL < (6, 12), reason="this kernel has slices of one length")
def test_threads_that_are_started_later_have_the_short_slice_too_and_the_niceness_stays() -> None:
    said = subprocess.run([sys.executable, "-P", "-c", SAYS], capture_output=True, check=True, text=True)
    done, niceness, wanted, *found = said.stdout.split()
    assert niceness == wanted
    if done == "False":
        pytest.skip("a filter of system calls forbids it here")
    assert found == [str(SLICE_NANOSECONDS)]
