"""`make validate`: what the validators find decides its exit status."""

import os
import shutil
from pathlib import Path

import pytest

from tests.synthetic import ct_series, save
from tests.validators import main


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy is not here (Debian: dicom3tools)")
def test_a_folder_of_objects_is_well_only_without_a_finding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(tmp_path) == os.EX_NOINPUT
    image = ct_series(1, seed=1)[0]
    save(image, tmp_path)
    assert main(tmp_path) == os.EX_OK
    del image.PatientPosition, image.Rows
    save(image, tmp_path)
    assert main(tmp_path) == 1
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("1 objects, ")
    assert not last.endswith(" 0 findings")
