"""What several files of this folder need."""

import pytest


@pytest.fixture
def no_golden_case(monkeypatch: pytest.MonkeyPatch) -> None:
    """`check` without the bundle's golden case, which takes seconds and is shown elsewhere."""
    monkeypatch.setattr("dicom_node.job.verify_golden", lambda *_: "left out")
