"""The short form of every benchmark, one after the other, and one table: what was measured, and what was to be reached.

    python -m benchmarks.all [--long] [--only NAME ...]

First what no speed may change: the bundle's golden case, and the bytes of every object against the long way of making
it. A benchmark that finds wrong numbers fails, and with it the command; a target that is missed is only shown, for on a
machine that has other work it says little. docs/performance.md has each figure and the limit it stands against.
"""

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import table
from models.bundle import DEMO

BENCHMARKS = ("features", "receive", "latency", "startup", "growth", "throughput", "scale")
UNCHANGED = {
    "golden case": ["-m", "analysis.golden", str(DEMO)],
    "the same bytes": ["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/dicom/test_reports_bytes.py"],
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--long", action="store_true", help="the figures of docs/performance.md; an hour or more")
    parser.add_argument("--only", nargs="*", choices=BENCHMARKS, default=BENCHMARKS)
    given = parser.parse_args()
    began, failed = time.monotonic(), []
    rows: list[table.Row] = []
    for name, arguments in UNCHANGED.items():
        failed += [] if _run(name, arguments) else [name]
    with tempfile.TemporaryDirectory(prefix="prognode-benchmarks-") as folder:
        for name in BENCHMARKS:
            if name not in given.only:
                continue
            if importlib.util.find_spec(f"benchmarks.{name}") is None:
                print(f"\n== {name}: not in this release")
                continue
            found = Path(folder) / f"{name}.jsonl"
            arguments = ["-m", f"benchmarks.{name}", *([] if given.long else ["--short"]), "--json", str(found)]
            failed += [] if _run(name, arguments) else [name]
            rows += table.read(found) if found.exists() else []
    print(
        f"\n== all, {time.monotonic() - began:.0f} s, load average {os.getloadavg()[0]:.1f}, {os.cpu_count()} cores\n"
    )
    table.show(rows)
    print(f"\nFAILED: {', '.join(failed)}" if failed else "\nevery check of the numbers holds")
    return 1 if failed else 0


def _run(name: str, arguments: list[str]) -> bool:
    print(f"\n== {name}: python {' '.join(arguments)}", flush=True)
    return subprocess.run([sys.executable, *arguments], check=False).returncode == 0


if __name__ == "__main__":
    sys.exit(main())
