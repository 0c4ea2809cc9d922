"""Where tests find the shared data; absent data makes a test skip with its reason."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("PROGNODE_SHARED", ROOT.parent / "shared"))


def shared(*parts: str) -> Path:
    """A path under the shared folder; skips the calling test where it is absent."""
    path = SHARED.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"shared data not here: {'/'.join(parts)} (set PROGNODE_SHARED to its folder)")
    return path
