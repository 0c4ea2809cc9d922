"""What `pip install prognode` brings: all that the node imports, and nothing that it does not (pyproject.toml)."""

import ast
import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OURS = {"dicom_node", "analysis", "reports", "config", "models"}
# Of analysis.train, what `prognode demo` draws its patient with; the rest needs the extra `train`.
TRAINING = {"data", "encoder", "judging", "model", "report", "evaluate.py", "pipeline.py"}
NOT_IMPORTED = {"matplotlib"}  # its fonts are read


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _imported() -> dict[str, str]:
    """Top names that the node's own modules import, whenever they do, each with a file that does."""
    found = {}
    for path in sorted(one for package in OURS for one in (ROOT / package).rglob("*.py")):
        parts = path.relative_to(ROOT).parts
        if parts[:2] == ("analysis", "train") and parts[2] in TRAINING:
            continue
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            else:
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found |= {name.partition(".")[0]: "/".join(parts) for name in names}
    return {name: path for name, path in found.items() if name not in OURS | sys.stdlib_module_names}


def _needed(requirements: list[str]) -> set[str]:
    """These distributions and all that they need themselves."""
    found: set[str] = set()
    wanted = list(requirements)
    while wanted:
        requirement = Requirement(wanted.pop())
        name = _normal(requirement.name)
        if name in found or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        found.add(name)
        wanted += importlib.metadata.requires(name) or []
    return found


@cache
def _providers() -> dict[str, list[str]]:
    return {
        name: [_normal(one) for one in found] for name, found in importlib.metadata.packages_distributions().items()
    }


def test_what_the_node_imports_comes_with_it() -> None:
    extras = PROJECT["optional-dependencies"]
    brought = _needed(PROJECT["dependencies"] + extras["otel"] + extras["dask"])
    missing = {name: path for name, path in _imported().items() if not brought.intersection(_providers()[name])}
    assert not missing


def test_what_comes_with_the_node_is_imported() -> None:
    used = {one for name in _imported() for one in _providers()[name]}
    asked = {_normal(Requirement(text).name) for text in PROJECT["dependencies"]}
    assert asked - used - NOT_IMPORTED == {"python-multipart"}  # starlette reads forms with it


def test_the_engines_of_training_stay_out_of_a_node() -> None:
    training = {"scipy", "scikit-image", "scikit-learn", "scikit-survival", "torch", "onnx", "pandas", "numba"}
    assert not _needed(PROJECT["dependencies"]) & training


def test_training_without_its_extra_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "cohort.toml").touch()
    code = "import sys; sys.modules['scipy'] = None; from analysis.train.__main__ import main; sys.exit(main())"
    command = [sys.executable, "-P", "-c", code, "train", str(tmp_path / "cohort.toml"), "--out", str(tmp_path / "out")]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert said.returncode == os.EX_UNAVAILABLE
    assert said.stderr == (
        'training needs the extra `train` (scipy is missing); install it: pip install "prognode[train]"\n'
    )
