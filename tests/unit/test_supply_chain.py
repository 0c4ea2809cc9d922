"""`make sbom`, `make audit-deps`: what is installed is listed and valid; "could not look" is never "none known"."""

import json
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest

from tests.paths import ROOT

TOOLS = ROOT / "build" / "tools"
ENVIRONMENT = Path(sys.executable).parents[1]


def audit(folder: Path, said: str, code: int = 0) -> "subprocess.CompletedProcess[str]":
    """scripts/audit-deps with a pip-audit that says this."""
    tool = folder / "bin" / "pip-audit"
    tool.parent.mkdir(exist_ok=True)
    tool.write_text(f"#!/bin/sh\ncat <<'END'\n{said}\nEND\nexit {code}\n")
    tool.chmod(0o755)
    command = [sys.executable, str(ROOT / "scripts" / "audit-deps"), str(folder), "requirements.txt"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def dependencies(*entries: dict[str, object]) -> str:
    return json.dumps({"dependencies": [*entries], "fixes": []})


GOOD = {"name": "six", "version": "1.17.0", "vulns": []}
BAD = {"name": "old", "version": "1.0", "vulns": [{"id": "PYSEC-2026-1", "fix_versions": ["1.1"]}]}
SKIPPED = {"name": "mine", "skip_reason": "Dependency not found on PyPI and could not be audited: mine (1.0)"}


def test_nothing_known_about_packages_that_were_all_looked_up_is_well(tmp_path: Path) -> None:
    done = audit(tmp_path, dependencies(GOOD))
    assert (done.returncode, done.stdout) == (0, "1 of 1 packages looked up, 0 with known vulnerabilities\n")


def test_a_known_vulnerability_is_named_with_its_remedy(tmp_path: Path) -> None:
    done = audit(tmp_path, dependencies(GOOD, BAD, SKIPPED), code=1)
    assert done.returncode == 1
    assert "old 1.0: PYSEC-2026-1, fixed in 1.1" in done.stdout


@pytest.mark.parametrize("said", [dependencies(GOOD, SKIPPED), dependencies(SKIPPED), dependencies(), "", "Traceback"])
def test_what_could_not_be_looked_up_is_not_called_well(tmp_path: Path, said: str) -> None:
    done = audit(tmp_path, said)
    assert done.returncode == 69
    assert "could not look" in done.stderr


def test_the_tool_itself_without_a_network_ends_with_a_reason(tmp_path: Path) -> None:
    if not (TOOLS / ".installed").exists():
        pytest.skip("the tools are not installed: make build/tools/.installed")
    (tmp_path / "one.txt").write_text("six==1.17.0\n")
    command = ["unshare", "--net", "--", sys.executable, str(ROOT / "scripts" / "audit-deps"), str(TOOLS)]
    done = subprocess.run([*command, str(tmp_path / "one.txt")], capture_output=True, text=True, check=False)
    if "unshare" in done.stderr:
        pytest.skip("no network namespace here")
    assert done.returncode == 69, done.stdout
    assert "could not look" in done.stderr


@pytest.fixture(scope="module")
def sbom(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if not (TOOLS / ".installed").exists():
        pytest.skip("the tools are not installed: make build/tools/.installed")
    out = tmp_path_factory.mktemp("sbom") / "sbom.json"
    done = subprocess.run(
        [str(ROOT / "scripts" / "sbom"), str(TOOLS), str(ENVIRONMENT), str(out)],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return out


def test_the_sbom_holds_everything_that_is_installed_and_is_valid(sbom: Path) -> None:
    found = json.loads(sbom.read_text(encoding="utf-8"))
    assert found["bomFormat"] == "CycloneDX"
    assert found["metadata"]["component"]["name"] == "prognode"
    names = {each["name"].lower().replace("_", "-") for each in found["components"]}
    assert {"pydicom", "pynetdicom", "onnxruntime", "typer"} <= names
    assert len(names) >= len({each.name.lower() for each in distributions()}) - 1
    assert str(ROOT) not in sbom.read_text(encoding="utf-8"), "no path of the machine that made it"


@pytest.mark.parametrize("damage", ["pydicom left out", "no valid CycloneDX"])
def test_an_sbom_that_leaves_something_out_or_is_not_valid_is_refused(sbom: Path, tmp_path: Path, damage: str) -> None:
    data = json.loads(sbom.read_text(encoding="utf-8"))
    if damage == "pydicom left out":
        data["components"] = [each for each in data["components"] if each["name"] != "pydicom"]
        data["dependencies"] = []
    else:
        data["components"][0]["type"] = "gadget"
    changed = tmp_path / "sbom.json"
    changed.write_text(json.dumps(data), encoding="utf-8")
    command = [str(TOOLS / "bin" / "python"), str(ROOT / "scripts" / "sbom_check.py"), str(changed), str(ENVIRONMENT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert ("pydicom" if "pydicom" in damage else "not valid CycloneDX") in done.stderr
