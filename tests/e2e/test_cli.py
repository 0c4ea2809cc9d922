"""The command line: commands explain themselves by example and end with sysexits; `score` keeps its contract."""

import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from analysis.contract import RESEARCH_USE, JobResult
from config.settings import load
from dicom_node import check_machine
from dicom_node.check_peers import peers
from dicom_node.cli import app, main
from dicom_node.cli_common import SECTIONS
from dicom_node.demo import table
from dicom_node.demo_pacs import DemoPacs
from dicom_node.store import Store
from models.bundle import DEMO
from tests.e2e.node import (
    PROGNODE,
    SETTINGS,
    assert_valid,
    destination,
    log_of,
    serving,
    spool_of,
    write_settings,
)
from tests.hl7_inputs import not_scored
from tests.report_inputs import result, small_case
from tests.synthetic import ct_series, drop_slice, rtstruct, save, save_all

COMMANDS = {
    "serve", "receive", "work", "score", "demo", "status", "retry", "check", "bundle show", "bundle verify", "train",
    "evaluate", "pretrain", "cohort synth", "web", "rescore", "hold", "release", "cancel", "priority", "user add",
    "user list", "user password", "user role", "user disable", "user signout", "user remove", "token add", "token list",
    "token revoke",
}  # fmt: skip
SCORED_FILES = {
    "result.json", "risk-sr.dcm", "radiomics-sr.dcm", "page-1.dcm", "page-1.png", "page-2.dcm", "page-2.png",
    "segmentation.dcm", "presentation-state.dcm",
}  # fmt: skip
NOT_SCORED_FILES = {"result.json", "risk-sr.dcm", "page-1.dcm", "page-1.png"}


def run(*arguments: str | Path) -> tuple[int, str]:
    """In this process: exit status, and stdout with stderr."""
    done = CliRunner().invoke(app, list(map(str, arguments)))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


def prognode(*arguments: str | Path) -> tuple[int, str]:
    """As an operator does: the installed command in a process of its own."""
    command = [str(PROGNODE), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return done.returncode, done.stdout + done.stderr


def _commands(command: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Commands with their full names; typer brings a click of its own, so groups are known by what they have."""
    if _is_group(command):
        for key, one in command.commands.items():
            yield from _commands(one, f"{name} {key}".strip())
    else:
        yield name, command


def _is_group(command: Any) -> bool:
    return hasattr(command, "commands")


def test_every_command_of_the_road_is_there() -> None:
    assert {name for name, _ in _commands(get_command(app))} >= COMMANDS


@pytest.mark.parametrize("name", sorted(name for name, _ in _commands(get_command(app))))
def test_every_command_has_help_with_an_example_that_its_parser_takes(name: str) -> None:
    command = dict(_commands(get_command(app)))[name]
    # A command that hands its options on gets its help from a child, whose words only a process of its own shows.
    hands_on = bool(command.context_settings.get("ignore_unknown_options"))
    code, text = (prognode if hands_on else run)(*name.split(), "--help")
    assert code == 0
    example = re.search(r"Example: (prognode .+?)(?:\n\n|\n *\n|$)", text.rstrip(), re.DOTALL)
    assert example, text
    words = example.group(1).split()
    assert words[: 1 + len(name.split())] == ["prognode", *name.split()]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    used = {word for word in words if word.startswith("--")}
    assert used <= known or hands_on
    if hands_on:
        assert re.search(r"COHORT\.toml|clinical table", text), "what goes in, and what comes out"
        assert re.search(r"(?m)^out|truth\.json", text)


@pytest.mark.parametrize("group", sorted(name for name, one in get_command(app).commands.items() if _is_group(one)))
def test_the_help_of_a_group_cuts_no_summary(group: str) -> None:
    code, text = run(group, "--help")
    assert (code, "..." in text.split("\n", 1)[1]) == (0, False)


# -- exit codes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["score"], ["sever"], ["status", "--stuyd", "1.2"], ["train"]])
def test_wrong_use_is_64(arguments: list[str]) -> None:
    code, output = prognode(*arguments)
    assert code == os.EX_USAGE
    assert "usage" in output.lower()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[node]\nprot = 104\n", "did you mean 'port'?"),
        ("[node\n", "is not TOML"),
        ('[node]\nae_title = "A TITLE THAT IS TOO LONG"\n', "use 1 to 16 printable ASCII"),
    ],
)
@pytest.mark.parametrize("command", [["serve"], ["status"], ["check"], ["retry"]])
def test_settings_that_are_wrong_are_78_and_name_the_key(
    tmp_path: Path, text: str, words: str, command: list[str]
) -> None:
    (tmp_path / SETTINGS).write_text(text)
    code, output = run(*command, "--config", tmp_path / SETTINGS)
    assert code == os.EX_CONFIG
    assert words in output


def test_settings_that_are_not_there_are_78(tmp_path: Path) -> None:
    code, output = run("serve", "--config", tmp_path / "none.toml")
    assert (code, "give the file with --config" in output) == (os.EX_CONFIG, True)


def test_a_port_that_is_taken_is_69_and_a_spool_that_cannot_be_made_73(tmp_path: Path) -> None:
    with DemoPacs(tmp_path / "pacs") as pacs:
        write_settings(tmp_path / "taken", port=pacs.port)
        code, output = prognode("receive", "--config", tmp_path / "taken" / SETTINGS)
    assert code == os.EX_UNAVAILABLE, output
    assert f"127.0.0.1:{pacs.port}: Address already in use; find who has it (ss -ltnp), or set [node] port" in output
    write_settings(tmp_path / "elsewhere", node={"host": "192.0.2.1"})  # an address of nobody (RFC 5737)
    code, output = prognode("receive", "--config", tmp_path / "elsewhere" / SETTINGS)
    assert (code, "; set [node] host to an address of this machine" in output) == (os.EX_UNAVAILABLE, True), output
    write_settings(tmp_path / "spool")
    (tmp_path / "spool" / "spool").write_text("a file where the spool is to be")
    code, output = prognode("receive", "--config", tmp_path / "spool" / SETTINGS)
    assert code == os.EX_CANTCREAT, output
    assert "Traceback" not in output


def test_a_spool_that_this_user_may_not_read_is_77_and_says_whose_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_settings(tmp_path)
    store = tmp_path / "spool" / "store.sqlite"

    def refused(*_: object, **__: object) -> bool:  # root, as whom the tests may run, is never refused
        raise PermissionError(errno.EACCES, "Permission denied", str(store))

    monkeypatch.setattr(sys, "argv", ["prognode", "status", "--config", str(path)])
    monkeypatch.setattr(Path, "is_file", refused)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == os.EX_NOPERM
    assert f"prognode: {store}: this user may not use it (Permission denied); run it as" in capsys.readouterr().err


def test_status_and_retry_without_a_store_are_66(tmp_path: Path) -> None:
    path = write_settings(tmp_path)
    for command in ("status", "retry"):
        code, output = run(command, "--config", path)
        assert (code, "no store here" in output) == (os.EX_NOINPUT, True)


def test_status_of_an_unknown_study_is_65(tmp_path: Path) -> None:
    path = write_settings(tmp_path)
    assert run("check", "--config", path)[0] == os.EX_CONFIG  # nobody receives results yet
    spool_of(tmp_path).create()
    Store.open(spool_of(tmp_path).store).close()
    code, said = run("retry", "--config", path)
    assert (code, said) == (
        0, "Nothing has failed. To plan a study once more that was not scored: prognode retry --study UID\n",
    )  # fmt: skip
    assert run("status", "--config", path)[0] == 0
    code, output = run("status", "--study", "1.2.3", "--config", path)
    assert (code, "nothing of it has been received" in output) == (os.EX_DATAERR, True)


def test_score_of_no_folder_is_66_and_of_a_folder_without_dicom_65(tmp_path: Path) -> None:
    code, output = run("score", tmp_path / "none", "--out", tmp_path / "out")
    assert (code, "no such folder" in output) == (os.EX_NOINPUT, True)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "letter.txt").write_text("Dear colleague")
    code, output = run("score", tmp_path / "in", "--out", tmp_path / "out")
    assert (code, "no CT and no contour object" in output) == (os.EX_DATAERR, True)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["work_items"] == []
    assert [entry["file"] for entry in summary["ignored"]] == ["letter.txt"]


def test_score_into_a_file_is_73(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "letter.txt").write_text("Dear colleague")
    (tmp_path / "out").write_text("in the way")
    code, output = run("score", tmp_path / "in", "--out", tmp_path / "out")
    assert code == os.EX_CANTCREAT, output


def test_a_score_on_the_screen_is_marked_as_research_like_every_other() -> None:
    assert RESEARCH_USE in table(result(small_case().mask))
    assert RESEARCH_USE in table(not_scored())


# -- check and bundle ----------------------------------------------------------------------------------------


def test_check_of_a_healthy_node_is_0_and_says_which_isolation_is_in_force(tmp_path: Path) -> None:
    with DemoPacs(tmp_path / "pacs") as pacs:
        path = write_settings(tmp_path, destination("DEMOPACS", pacs.port))
        code, output = run("check", "--config", path)
        assert code == 0, output
        assert "ok   C-ECHO DEMOPACS" in output
        assert re.search(r"ok   job isolation: as .*, in force: limits of .*open files", output)
        assert "SYNTHETIC - NOT FOR CLINICAL USE" in output
        code, output = run("check", "--json", "--config", path)
        findings = json.loads(output)
        assert code == 0
        assert all(set(one) == {"id", "about", "name", "level", "well", "text", "remedy"} for one in findings)
        assert [one["about"] for one in findings if one["id"] == "peer.echo"] == ["DEMOPACS"]
        assert {one["level"] for one in findings} == {"ok", "note"}
        assert pacs.objects() == [], "nothing is put into a PACS unasked"
        for _ in range(2):
            (tested,) = [one for one in peers(load(path), store_test=True) if one.id == "peer.test_object"]
            assert (tested.level, tested.text) == ("note", "stored; DEMOPACS lists it")
            assert "it stays: remove study 2.25." in tested.remedy
        assert len(pacs.objects()) == 1, "a second test puts no second one there"
    code, output = run("check", "--config", path)
    assert code == os.EX_CONFIG
    assert "FAIL C-ECHO DEMOPACS" in output
    assert "to do: start DEMOPACS" in output


def test_help_groups_every_command_and_cuts_no_summary() -> None:
    code, output = run("--help")
    assert code == 0
    commands = get_command(app).commands
    assert sorted(name for names in SECTIONS.values() for name in names) == sorted(commands)
    assert "..." not in output.split("\n", 1)[1]
    assert output.index("To begin with:") < output.index("  demo ") < output.index("Studies:") < output.index("  hold ")


def test_bundle_show_and_verify_say_what_it_is_and_that_it_is_whole() -> None:
    code, output = run("bundle", "verify")
    assert code == 0
    digest = re.search(r"sha256 ([0-9a-f]{64})", output)
    assert digest
    code, shown = run("bundle", "show")
    assert code == 0
    assert digest.group(1) in shown
    assert "SYNTHETIC - NOT FOR CLINICAL USE" in shown
    assert re.search(r"OS +12 months +0\.\d\d \(0\.\d\d to 0\.\d\d\)", shown)
    assert len(shown.splitlines()) < 15
    code, card = run("bundle", "show", "--full")
    assert code == 0
    assert (DEMO / "model_card.md").read_text(encoding="utf-8") in card


def test_check_makes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    _, output = run("check")
    assert output.startswith("ok   settings: no file: the built-in settings\n")
    assert "ok   spool: spool is not there yet; the node makes it" in output
    assert not list(tmp_path.iterdir())


def test_a_settings_file_of_this_folder_that_is_not_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("config", "init")[0] == 0
    said = run("config", "check")[1]
    assert "no file: the built-in settings" in said
    assert "to do: to use the file prognode.toml of this folder: --config prognode.toml" in said
    assert run("config", "check", "--config", "prognode.toml")[1].startswith("ok  prognode.toml;")


@pytest.mark.parametrize(
    ("spool", "why", "remedy"),
    [
        ("file", "a file is there, not a folder", "name a folder in [node] spool"),
        ("file/below", "a file is there, not a folder", "name a folder in [node] spool"),
        (
            "/proc/nospool",
            "cannot be made or written (No such file or directory)",
            "name another folder in [node] spool",
        ),
        ("odd", "store.sqlite is not a store of Prognode (file is not a database)", "prognode restore"),
    ],
)
def test_a_spool_that_cannot_be_used_is_named_with_its_setting_and_a_remedy(
    tmp_path: Path, spool: str, why: str, remedy: str
) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "store.sqlite").write_text("no database " * 100)
    settings = tmp_path / "node.toml"
    settings.write_text(f'[node]\nspool = "{spool}"\nport = 0\n[web]\nport = 0\n')
    (found,) = [one for one in check_machine.spool(load(settings)) if not one.well]
    assert why in found.text
    assert remedy in found.remedy
    assert str(tmp_path / spool) in found.text
    code, output = run("receive", "--config", str(settings))
    assert code == (78 if spool == "odd" else 73)
    assert f"prognode: {tmp_path / spool}" in output
    assert why in output
    assert remedy in output


def test_a_node_that_starts_names_each_file_of_the_settings_that_is_not_there(tmp_path: Path) -> None:
    write_settings(tmp_path, clinical={"table": "gone.csv"})
    with serving(tmp_path):
        pass
    assert f"settings.file_missing clinical.table: {tmp_path / 'gone.csv'} is not there" in log_of(tmp_path)


def test_a_bundle_with_one_byte_changed_is_78(tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    shutil.copytree(DEMO, folder)
    model = folder / "model.json"
    model.write_bytes(model.read_bytes().replace(b"0", b"1", 1))
    for command in ("show", "verify"):
        code, output = run("bundle", command, folder)
        assert code == os.EX_CONFIG
        assert "model.json" in output
    write_settings(tmp_path / "node")
    text = (tmp_path / "node" / SETTINGS).read_text()
    (tmp_path / "node" / SETTINGS).write_text(f'bundle = "{folder}"\n{text}')
    assert run("serve", "--config", tmp_path / "node" / SETTINGS)[0] == os.EX_CONFIG
    for command in ("show", "verify"):
        code, output = run("bundle", command, "--config", tmp_path / "node" / SETTINGS)
        assert (code, "model.json" in output) == (os.EX_CONFIG, True), "the bundle of the settings is looked at"


# -- score ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder with one study to score, one that cannot be, and a CT that nobody has contoured; and what came out."""
    folder = tmp_path_factory.mktemp("score")
    good, gap, bare = (ct_series(12, 36, 36, seed=seed) for seed in (96, 97, 98))
    save_all([*good, rtstruct(good)], folder / "in" / "a")
    save_all([*drop_slice(gap), rtstruct(drop_slice(gap))], folder / "in" / "b" / "deep")
    save_all(bare, folder / "in" / "c")
    code, output = prognode("score", folder / "in", "--out", folder / "out")
    assert code == 0, output
    assert "SYNTHETIC - NOT FOR CLINICAL USE" in output
    summary = json.loads((folder / "out" / "summary.json").read_text())
    for entry in summary["work_items"]:
        found = JobResult.model_validate_json((folder / "out" / entry["folder"] / "result.json").read_bytes())
        assert table(found) in output
    assert re.search(r"OS +12 months +\d+ % \(\d+ to \d+ %\)", output)
    return folder / "in", folder / "out"


def test_the_summary_of_score_has_the_keys_that_were_promised(scored: tuple[Path, Path]) -> None:
    summary = json.loads((scored[1] / "summary.json").read_text())
    items = summary["work_items"]
    assert all({"key", "outcome", "reason", "folder"} <= set(item) for item in items)
    assert sorted((item["outcome"], item["reason"] or "") for item in items) == [
        ("NOT_SCORED", "MISSING_SLICE"),
        ("NOT_SCORED", "NO_CONTOUR"),
        ("SCORED", ""),
    ]
    assert len({item["key"] for item in items}) == 3
    for item in items:
        assert re.fullmatch(r"[0-9a-f]{64}", item["key"])
        if item["outcome"] == "SCORED":
            assert item["reason"] is None
            assert {(one["endpoint"], one["horizon_months"]) for one in item["scores"]} == {
                ("OS", 12), ("OS", 36), ("PFS", 12), ("PFS", 36),
            }  # fmt: skip
            assert item["sub_model"]
        else:
            assert item["sentence"]
            assert item["remedy"]


def test_each_work_item_has_its_folder_of_files(scored: tuple[Path, Path]) -> None:
    summary = json.loads((scored[1] / "summary.json").read_text())
    folders = {item["folder"] for item in summary["work_items"]}
    assert {path.name for path in scored[1].iterdir()} == folders | {"summary.json"}, "nothing else is left"
    for item in summary["work_items"]:
        there = {path.name for path in (scored[1] / item["folder"]).iterdir()}
        assert there >= (SCORED_FILES if item["outcome"] == "SCORED" else NOT_SCORED_FILES)
        assert ("radiomics-sr.dcm" in there) == (item["outcome"] == "SCORED")
        result = json.loads((scored[1] / item["folder"] / "result.json").read_text())
        assert (result["key"], result["outcome"], result["reason"]) == (item["key"], item["outcome"], item["reason"])
    assert_valid(sorted(scored[1].rglob("*.dcm")))


def test_score_twice_gives_the_same_bytes(scored: tuple[Path, Path], tmp_path: Path) -> None:
    code, output = run("score", scored[0], "--out", tmp_path / "again")
    assert code == 0, output
    assert _digests(tmp_path / "again") == _digests(scored[1])
    code, output = run("score", scored[0] / "a", "--out", tmp_path / "again")  # into the same folder, a part of it
    assert code == 0, output
    assert len(json.loads((tmp_path / "again" / "summary.json").read_text())["work_items"]) == 1


def _digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_work_item_that_failed_makes_score_end_with_70_and_say_what_to_do(tmp_path: Path) -> None:
    ct = ct_series(12, 36, 36, seed=99)
    save_all(ct, tmp_path / "in")
    save(rtstruct(ct), tmp_path / "in")
    path = write_settings(tmp_path, job={"memory_bytes": 400_000_000, "attempts": 1})
    code, output = run("score", tmp_path / "in", "--out", tmp_path / "out", "--config", path)
    assert code == os.EX_SOFTWARE, output
    (entry,) = json.loads((tmp_path / "out" / "summary.json").read_text())["work_items"]
    assert (entry["outcome"], entry["folder"]) == ("FAILED", None)
    assert entry["error"]
    assert entry["hint"]
