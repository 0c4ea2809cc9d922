"""For .ci/run, after `make test` has failed: what failed, once more and alone, when it is at most two tests.

    python -m scripts.again

Ends with 0 only where all tests ran before, and every one of them passes now. What failed first is named last, so that
it is looked into all the same (docs/decisions/0021-asked-once-more.md).
"""

import json
import subprocess
import sys
from pathlib import Path

AT_MOST = 2
SOME_FAILED = 1  # pytest's exit status where it ran to its end


def main() -> int:
    noted, status = Path(".pytest_cache/v/cache/lastfailed"), Path(".pytest_cache/status")
    if not status.exists() or status.read_text().strip() != str(SOME_FAILED):
        print("again: not all tests have run; what is above says why")
        return 1
    failed = list(json.loads(noted.read_text())) if noted.exists() else []
    if not 1 <= len(failed) <= AT_MOST:
        print(f"again: {len(failed)} tests failed; only one or {AT_MOST} would be asked once more")
        return 1
    ended = subprocess.run([sys.executable, "-m", "pytest", "-v", *failed], check=False)
    print("again: failed among all tests and", "passed" if ended.returncode == 0 else "NOT passed", "alone:")
    print("\n".join(f"    {name}" for name in failed))
    return ended.returncode


if __name__ == "__main__":
    sys.exit(main())
