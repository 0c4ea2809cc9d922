"""What the packages are made from: the lock as the wheelhouse reads it, what the wheel carries, Debian's scripts."""

import importlib.util
import os
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from tests.paths import ROOT

DEBIAN = ROOT / "deploy" / "debian"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_line_of_the_lock_is_read_with_its_hashes() -> None:
    wheelhouse = script("wheelhouse")
    found = wheelhouse.locked()
    for path in wheelhouse.LOCKS:
        for line in path.read_text(encoding="utf-8").splitlines():
            if "==" in line and not line.startswith((" ", "#")):
                assert line.split("==")[0].split("[")[0] in found, line
    assert {name for name, (version, hashes) in found.items() if not version or not hashes} == set()
    assert {*wheelhouse.BUILDS} <= {*found}


def test_a_wheel_is_named_as_the_lock_names_it(tmp_path: Path) -> None:
    wheelhouse = script("wheelhouse")
    wheel = tmp_path / "Scikit_Image-0.25-cp311.whl"
    wheel.write_bytes(b"")
    assert wheelhouse.named(wheel)[:2] == ("scikit-image", "0.25")


def test_the_wheel_carries_every_file_that_is_not_python() -> None:
    """Bundle, schemas, settings, templates, catalogues: a pattern of package-data holds each that git has."""
    try:
        listed = subprocess.run(
            ["git", "ls-files", "dicom_node", "analysis", "reports", "config", "models"],
            cwd=ROOT, capture_output=True, text=True, check=True,
        ).stdout.split()  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs git and a clone")
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    carried = {
        str(path.relative_to(ROOT))
        for package, patterns in settings["package-data"].items()
        for pattern in patterns
        for path in (ROOT / package.replace(".", "/")).glob(pattern.replace("**", "**/*"))
    }
    packages = {name.replace(".", "/") for name in settings["packages"]}
    for path in listed:
        if path.endswith(".py"):
            assert path.rpartition("/")[0] in packages, path
        elif not path.endswith((".c", ".pyi")):
            assert path in carried, path


@pytest.mark.parametrize("name", ["postinst", "prerm", "postrm", "prognode"])
def test_a_script_of_the_package_is_plain_sh_without_mistakes(name: str) -> None:
    subprocess.run(["/bin/sh", "-n", str(DEBIAN / name)], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", "-s", "sh", str(DEBIAN / name)], check=True)


def test_no_script_of_the_package_touches_the_spool() -> None:
    for name in ("postinst", "prerm", "postrm"):
        for line in (DEBIAN / name).read_text().splitlines():
            if "/var/lib/prognode" in line and not line.lstrip().startswith("#"):
                assert "rm" not in line.split(), line


@pytest.fixture
def scripts(tmp_path: Path) -> Callable[..., set[str]]:
    """Runs the package's scripts with a stand-in for systemctl; gives the units that run or are enabled."""
    units = tmp_path / "units"
    for folder in ("run/systemd/system", "bin", "units"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "bin/systemctl").write_text(f"""#!/bin/sh
cd {units}; verb=; units=
for word; do case $word in --*) ;; *) [ "$verb" ] && units="$units $word" || verb=$word;; esac; done
for unit in $units; do case $verb in
  is-active) [ -e "$unit.active" ];; is-enabled) [ -e "$unit.enabled" ];; is-failed) false;;
  start|restart) : >"$unit.active";; stop) [ "$unit" != "$STUCK" ] && rm -f "$unit.active";;
  enable) : >"$unit.enabled";; disable) rm -f "$unit.enabled";; esac || exit 1; done
""")
    (tmp_path / "bin/systemctl").chmod(0o755)

    def run(*calls: tuple[str, ...], stuck: str = "") -> set[str]:
        environment = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "STUCK": stuck}
        for name, *words in calls:
            text = (DEBIAN / name).read_text().replace("/run/", f"{tmp_path}/run/")
            done = subprocess.run(["/bin/sh", "-c", text, name, *words], env=environment, check=False)
            assert done.returncode == (1 if stuck else 0)
        return {path.name for path in units.iterdir()}

    for unit in (
        "prognode-run.service",
        "prognode-work.service",
        "prognode-receive.service",
        "prognode-receive.socket",
    ):
        (units / f"{unit}.active").touch()
        (units / f"{unit}.enabled").touch()
    return run


@pytest.mark.parametrize("what", ["upgrade", "deconfigure", "remove"])
def test_what_was_stopped_for_an_upgrade_or_a_removal_runs_again_when_nothing_comes_of_it(
    scripts: Callable[..., set[str]], tmp_path: Path, what: str
) -> None:
    before = scripts()
    during = scripts(("prerm", what))
    assert during == (
        {name for name in before if "receive" in name or "enabled" in name} if what != "remove" else set()
    )
    assert scripts(("postinst", f"abort-{what}")) == before
    assert not (tmp_path / "run/prognode-stopped").exists()


def test_a_removal_that_stops_half_way_leaves_what_ran_before(scripts: Callable[..., set[str]]) -> None:
    before = scripts()
    assert scripts(("prerm", "remove"), stuck="prognode-work.service") != before
    assert scripts(("postinst", "abort-remove")) == before


def test_a_removed_package_leaves_nothing_in_run(scripts: Callable[..., set[str]], tmp_path: Path) -> None:
    assert scripts(("prerm", "remove"), ("postrm", "remove")) == set()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["systemd"]


def test_units_that_the_package_stops_and_starts_are_those_that_there_are() -> None:
    units = {path.stem for path in (ROOT / "deploy/systemd/system").glob("*[!@].service")}
    for name in ("postinst", "prerm"):
        text = (DEBIAN / name).read_text()
        assert {unit for unit in units if unit not in text} == set(), name


def test_the_man_page_shows_help_as_it_is_and_bash_reads_the_completion(tmp_path: Path) -> None:
    if shutil.which("bash") is None:
        pytest.skip("needs bash")
    pages = script("manpages")
    assert pages.plain(".dot\n--out \\x") == "\\&.dot\n\\-\\-out \\ex"
    file = tmp_path / "prognode.bash"
    file.write_text(pages.completion(pages.leaves(pages.typer.main.get_command(pages.app))))
    ask = f"source {file}; COMP_WORDS=(prognode config in); COMP_CWORD=2; _prognode; echo ${{COMPREPLY[@]}}"
    said = subprocess.run(["bash", "-c", ask], capture_output=True, text=True, check=True, cwd=str(tmp_path))
    assert said.stdout.split() == ["init"]
