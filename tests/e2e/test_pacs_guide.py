"""The Orthanc chapter of docs/pacs.md as it stands: its files and commands, with a real Orthanc and a real node."""

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.e2e.node import PROGNODE, SETTINGS, completed, deliveries_of, serving, wait_for
from tests.e2e.orthanc import Orthanc, namespace, skip_unless_possible
from tests.paths import ROOT
from tests.synthetic import ct_series, rtstruct, save_all

pytestmark = [pytest.mark.orthanc, pytest.mark.exhaustive]
GUIDE = (ROOT / "docs" / "pacs.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    (found,) = re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)
    return str(found)


def command(beginning: str) -> list[str]:
    """The one command line of the guide that begins so, without its comment."""
    (found,) = [line.strip() for line in GUIDE.splitlines() if line.startswith(f"    {beginning}")]
    return shlex.split(found, comments=True)


class GuidedOrthanc(Orthanc):
    """Orthanc with the guide's two files, and folders of the test's own in the place of Debian's."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "prognode.lua").write_text(block("lua"))
        settings = json.loads(block("json").replace("/etc/orthanc", str(folder)))
        settings |= {"StorageDirectory": str(folder / "storage"), "IndexDirectory": str(folder / "storage"),
                     "RemoteAccessAllowed": False, "AuthenticationEnabled": False}  # fmt: skip
        (folder / "orthanc.json").write_text(json.dumps(settings))
        self.folder = folder
        with (folder / "orthanc.log").open("wb") as log:
            self.process = subprocess.Popen(["Orthanc", str(folder / "orthanc.json")], stdout=log, stderr=log)
        self._wait()


def run(arguments: list[str], folder: Path) -> str:
    where = {"prognode": str(PROGNODE), "storescu": "/usr/bin/storescu"}
    arguments = [where.get(arguments[0], arguments[0]), *arguments[1:]]
    done = subprocess.run(arguments, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
    return done.stdout


def test_the_orthanc_chapter_of_the_pacs_guide_does_what_it_says(tmp_path: Path) -> None:
    skip_unless_possible()
    node_folder, ct = tmp_path / "node", ct_series(12, seed=3)
    node_folder.mkdir()
    (node_folder / SETTINGS).write_text(block("toml"))
    study = sorted(save_all([*ct, rtstruct(ct)], node_folder / "study"))
    with namespace():
        pacs = GuidedOrthanc(tmp_path / "orthanc")
        try:
            with serving(node_folder):
                said = run(command("prognode check"), node_folder)
                assert "ORTHANC" in said
                assert "answers C-ECHO" in said
                assert (
                    json.loads(run(command("curl -X POST http://127.0.0.1:8042/modalities/PROGNODE/echo"), node_folder))
                    == {}
                )

                send = command("storescu")
                assert send[-1] == "study/*.dcm"
                run([*send[:-1], *map(str, study)], node_folder)
                item = completed(node_folder, ct[0].StudyInstanceUID)

                assert item.outcome == "SCORED"
                assert {str(row.state) for row in deliveries_of(node_folder, item)} == {"COMMITTED"}
                assert "COMPLETED" in run(command("prognode status"), node_folder)
                find = command("curl -s http://127.0.0.1:8042/tools/find")
                find[-1] = find[-1].replace('"UID"', f'"{ct[0].StudyInstanceUID}"')
                assert len(json.loads(run(find, node_folder))) == 7
                assert pacs.modalities(ct[0].StudyInstanceUID) == {
                    "CT": 1,
                    "RTSTRUCT": 1,
                    "SR": 2,
                    "OT": 1,
                    "SEG": 1,
                    "PR": 1,
                }
                # What came from the node is not forwarded to it, also when its series have been silent for long enough.
                wait_for(lambda: all(one["IsStable"] for one in pacs.series_of(ct[0].StudyInstanceUID)), "silence")
                forwarded = [one for one in pacs.get("/jobs?expand") if one["Type"] == "DicomModalityStore"]
                assert [(one["State"], one["Content"]["RemoteAet"]) for one in forwarded] == [
                    ("Success", "PROGNODE")
                ] * 2
        finally:
            pacs.stop()
