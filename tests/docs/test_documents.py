"""What exists is documented, and what is documented exists."""

import re
import tomllib
from pathlib import Path

import click
import pytest
import typer

from config.settings import parse
from dicom_node.cli import app
from dicom_node.status import STOPS
from dicom_node.workitem import TRANSITIONS, State
from tests.paths import ROOT

TOUR = (ROOT / "docs" / "tour.md").read_text(encoding="utf-8")
OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
README = (ROOT / "README.md").read_text(encoding="utf-8")
PACKAGES = ("dicom_node", "analysis", "reports", "config", "models")


def commands() -> dict[str, click.Command]:
    """Every command by its full name."""
    found: dict[str, click.Command] = {}
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        inner = getattr(command, "commands", None)
        if inner is None:
            found[name] = command
        else:
            found |= {f"{name} {sub}": each for sub, each in inner.items()}
    return found


def test_every_module_that_the_tour_names_exists() -> None:
    named = re.findall(r"`([a-z_]+/[a-z_/]+\.py)`", TOUR)
    assert len(named) >= 12
    for name in named:
        assert (ROOT / name).is_file(), name


def test_the_tour_and_the_status_print_the_same_ten_stops() -> None:
    assert len(STOPS) == 10
    assert re.findall(r"^\| \d+ (\w+) \|", TOUR, re.MULTILINE) == list(STOPS)


def test_the_tour_draws_every_state_of_the_table() -> None:
    for state in State:
        assert state in TOUR
    assert set(TRANSITIONS) == set(State)


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_command_has_help_with_an_example_and_stands_in_the_operations_manual(name: str) -> None:
    text = commands()[name].help or ""
    assert f"Example: prognode {name}" in " ".join(text.split())
    assert f"| `prognode {name}` |" in OPERATIONS


def test_every_log_event_of_the_code_is_in_the_operations_manual() -> None:
    events = set()
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            calls = re.findall(
                r"LOGGER\.(?:info|warning|error|critical)\(\s*f?[\"']([a-z_]+\.[a-z_%{}]+)",
                path.read_text(encoding="utf-8"),
            )
            events |= set(calls)
    documented = re.findall(r"^\| `([a-z_.*]+)` \|", OPERATIONS, re.MULTILINE)
    missing = {
        event
        for event in events
        if not any(re.fullmatch(d.replace(".", r"\.").replace("*", ".*"), event) for d in documented)
    }
    assert events
    assert not missing, f"add to docs/operations.md: {sorted(missing)}"


def test_the_readme_s_settings_are_valid() -> None:
    (toml,) = re.findall(r"```toml\n(.*?)```", README, re.DOTALL)
    settings = parse(tomllib.loads(toml), Path("/"))
    assert [peer.ae_title for peer in settings.destinations()] == ["PACS"]


def test_the_tables_of_reasons_are_those_of_the_code() -> None:
    from scripts.documents import with_reasons

    text = (ROOT / "docs" / "faq.md").read_text(encoding="utf-8")
    assert with_reasons(text) == text, "run: make documents"
    assert "`REFERENCED_CT_INCOMPLETE`" in text


def test_every_test_that_the_security_paper_names_exists() -> None:
    text = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:[a-z0-9]+/)test_[a-z0-9_]+\.py)`", text))
    assert len(named) > 20
    assert not [name for name in sorted(named) if not (ROOT / "tests" / name).is_file()]


def test_every_link_of_the_documents_leads_to_a_file() -> None:
    for document in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_each_package_belongs_to_our_distribution_alone() -> None:
    from importlib.metadata import packages_distributions

    owners = packages_distributions()
    for name in PACKAGES:
        assert set(owners[name]) == {"prognode"}


def test_package_files_hold_a_docstring_and_nothing_else() -> None:
    for package in PACKAGES:
        lines = (ROOT / package / "__init__.py").read_text(encoding="utf-8").strip().splitlines()
        assert lines[0].startswith('"""')
        assert lines[-1].endswith('"""')
        assert not any(line.startswith(("import", "from")) for line in lines)


def test_no_module_is_longer_than_400_lines() -> None:
    long = {
        str(path.relative_to(ROOT)): count
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if (count := len(path.read_text(encoding="utf-8").splitlines())) > 400
    }
    assert not long


def test_doctests_are_collected(pytestconfig: pytest.Config) -> None:
    """A guard against a setting that silently collects none."""
    assert pytestconfig.getoption("doctestmodules")
    examples = [
        path for package in PACKAGES for path in (ROOT / package).rglob("*.py") if ">>> " in path.read_text("utf-8")
    ]
    assert len(examples) >= 5
    assert set(PACKAGES) <= set(pytestconfig.getini("testpaths"))
