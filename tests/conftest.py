"""For all tests: Hypothesis, and where programs are found."""

import os
import sys
from pathlib import Path

from hypothesis import settings

# Without a deadline: an example may be slow because the machine is busy, and that is no finding.
settings.register_profile("prognode", deadline=None)
settings.load_profile("prognode")

# An activated environment comes first, and pynetdicom's storescu in it hides DCMTK's.
_OWN = str(Path(sys.prefix) / "bin")
os.environ["PATH"] = os.pathsep.join(sorted(os.environ.get("PATH", "").split(os.pathsep), key=lambda one: one == _OWN))
