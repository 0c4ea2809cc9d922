"""Settings: the commented default file says what the code does, and every mistake is named with its remedy."""

import re
import tomllib
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest

import config
from config.settings import FhirServer, Hl7Peer, Peer, Rule, Settings, SettingsError, load, parse

DEFAULT = Path(config.__file__).with_name("prognode.toml")


def settings(text: str) -> Settings:
    return parse(tomllib.loads(text), Path("/site"))


def uncommented(text: str) -> str:
    """The file with its commented-out keys and tables in force."""
    return re.sub(r"(?m)^# (?=\[\[[a-z0-9_]+\]\]|[a-z_]+ = )", "", text)


def test_the_default_file_has_the_defaults() -> None:
    loaded, built_in = load(DEFAULT), Settings()
    for field in fields(Settings):
        expected = getattr(built_in, field.name)
        if field.name == "node":
            assert loaded.node.spool == DEFAULT.parent / expected.spool
            assert all(
                getattr(loaded.node, f.name) == getattr(expected, f.name) for f in fields(expected) if f.name != "spool"
            )
        else:
            assert getattr(loaded, field.name) == expected, field.name


def test_the_default_file_names_every_key() -> None:
    data = tomllib.loads(uncommented(DEFAULT.read_text(encoding="utf-8")))
    for field in fields(Settings):
        assert field.name in data, field.name
        table = getattr(Settings(), field.name)
        if is_dataclass(table):
            assert set(data[field.name]) == {f.name for f in fields(table)}, field.name
    for name, kind in (("peers", Peer), ("hl7_peers", Hl7Peer), ("fhir_servers", FhirServer), ("rules", Rule)):
        assert [set(peer) for peer in data[name]] == [{f.name for f in fields(kind)}], name


def test_the_example_peer_has_the_defaults() -> None:
    example = parse(tomllib.loads(uncommented(DEFAULT.read_text(encoding="utf-8"))), Path("/site"))
    assert example.peers == (Peer("PACS"),)
    assert example.clinical.table == Path("/site/clinical.csv")
    assert example.bundle == Path("/site/bundles/hospital-2026")


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "empty.toml"
    path.write_text("")
    assert load(path).plan == Settings().plan


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[plan]\nroi_name_pattern = ['x']", "unknown key 'plan.roi_name_pattern' (did you mean 'roi_name_patterns'?)"),
        ("[nodes]\nport = 1", "unknown key 'nodes' (did you mean 'node'?)"),
        ("[[peers]]\nae_title = 'A'\nsend = true", "unknown key 'peers[0].send' (did you mean 'sends'?)"),
        (
            "[node]\nbundle = 'x'",
            "unknown key 'node.bundle': put bundle at the top of the file, before the first [section]",
        ),
        ("[[rules]]\nname = 'a'\nbundel = 'x'", "unknown key 'rules[0].bundel' (did you mean 'bundle'?)"),
        ("[ups]\nzzz = 1", "unknown key 'ups.zzz' (known: enabled)"),
    ],
)
def test_an_unknown_key_names_the_nearest_or_all(text: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings(text)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[node]\nport = '104'", "'node.port' must be a whole number, without quotes, not '104'"),
        ("[node]\nport = 104.0", "'node.port' must be a whole number, without quotes, not 104.0"),
        ("[node]\nport = true", "'node.port' must be a whole number, without quotes, not true"),
        (
            "[receive]\nknown_callers_only = 1",
            "'receive.known_callers_only' must be true or false, without quotes, not 1",
        ),
        ("[plan]\nquiet_seconds = 'long'", "'plan.quiet_seconds' must be a number, without quotes, not 'long'"),
        ("[plan]\nroi_name_patterns = 'gtv'", "'plan.roi_name_patterns' must be a list"),
        ("[plan]\nroi_name_patterns = [1]", "'plan.roi_name_patterns[0]' must be a text in quotes, not 1"),
        (
            "[plan]\nseveral_rois = 'first'",
            "'plan.several_rois' must be one of 'reject', 'largest', 'union', not 'first'",
        ),
        ("node = 1", "'node' must be a table, as in [node]"),
        ("peers = 1", "'peers' must be a list"),
        ("[peers]\nae_title = 'A'", "'peers' must be a list; give each of them two brackets: [[peers]]"),
        ("peers = [1]", "'peers[0]' must be a table, as in [peers[0]]"),
        ("bundle = 7", "'bundle' must be the name of a file or folder in quotes, not 7"),
    ],
)
def test_a_value_of_the_wrong_kind_names_key_and_kind(text: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings(text)
    assert str(caught.value) == message


def test_a_file_that_cannot_be_used_is_named_with_its_key(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text("[node]\nprot = 104\n")
    with pytest.raises(SettingsError) as caught:
        load(path)
    assert str(caught.value) == f"{path}: unknown key 'node.prot' (did you mean 'port'?)"
    path.write_text("[node]\nport = 104\n")
    with pytest.raises(SettingsError, match=f"^{path} and variables of the environment: 'node.port'"):
        load(path, {"PROGNODE_NODE__PORT": "true"})


def test_a_whole_number_will_do_for_a_time() -> None:
    assert settings("[plan]\nquiet_seconds = 30").plan.quiet_seconds == 30.0


def test_a_peer_needs_its_ae_title() -> None:
    with pytest.raises(SettingsError, match=r"^'peers\[0\]' lacks ae_title; give it$"):
        settings("[[peers]]\nport = 104")


@pytest.mark.parametrize("title", ["", "   ", "SEVENTEEN-LETTERS", "PÄCS", "A\\\\B", "A\\tB", "A\\nB"])
def test_ae_titles_that_dicom_does_not_allow_are_refused(title: str) -> None:
    for text in (f'[node]\nae_title = "{title}"', f'[[peers]]\nae_title = "{title}"'):
        with pytest.raises(SettingsError, match="use 1 to 16 printable ASCII characters, no backslash"):
            settings(text)


@pytest.mark.parametrize("title", ["A", "SIXTEEN-LETTERS-", "with space", "lower_case"])
def test_ae_titles_that_dicom_allows_are_kept_as_they_are(title: str) -> None:
    assert settings(f'[[peers]]\nae_title = "{title}"').peers[0].ae_title == title


@pytest.mark.parametrize("host", ["", "10.0.0.5:104", "my pacs", "dicom://pacs"])
def test_a_host_that_is_no_name_or_address_is_refused(host: str) -> None:
    with pytest.raises(SettingsError, match="the port has a key of its own"):
        settings(f"[[peers]]\nae_title = 'PACS'\nhost = '{host}'\nreceives_results = true")


@pytest.mark.parametrize("host", ["pacs", "pacs.example", "10.0.0.5", "::1", "fe80::1%eth0"])
def test_names_and_addresses_are_hosts(host: str) -> None:
    assert settings(f"[[peers]]\nae_title = 'PACS'\nhost = '{host}'").peers[0].host == host


def test_a_peer_named_twice_is_refused() -> None:
    with pytest.raises(SettingsError, match="names PACS more than once; merge the entries"):
        settings('[[peers]]\nae_title = "PACS"\n[[peers]]\nae_title = "PACS"\nport = 11113')


def test_relative_paths_are_taken_from_the_files_folder(tmp_path: Path) -> None:
    path = tmp_path / "prognode.toml"
    path.write_text('bundle = "/opt/bundle"\n[node]\nspool = "data"\n[clinical]\ntable = "../clinical.csv"\n')
    loaded = load(path)
    assert loaded.node.spool == tmp_path / "data"
    assert loaded.clinical.table == tmp_path / "../clinical.csv"
    assert loaded.bundle == Path("/opt/bundle")


def test_destinations_are_the_peers_that_receive_results() -> None:
    loaded = settings('[[peers]]\nae_title = "CT"\n[[peers]]\nae_title = "PACS"\nreceives_results = true')
    assert [peer.ae_title for peer in loaded.destinations()] == ["PACS"]


@pytest.mark.parametrize(
    ("content", "message"), [(b"[node", "is not TOML"), (b"\xff\xfe", "is not TOML"), (None, "cannot be read")]
)
def test_a_file_that_is_no_settings_file_is_named(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "prognode.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SettingsError, match=f"prognode.toml: {message}"):
        load(path)


def test_settings_cannot_be_changed_after_loading() -> None:
    loaded: Any = Settings()
    with pytest.raises(AttributeError):
        loaded.plan.minimum_slices = 1


@pytest.mark.parametrize("value", [True, False])
@pytest.mark.parametrize(("section", "key"), [("receive", "known_callers_only"), ("plan", "only_roi_if_unnamed")])
def test_a_switch_takes_both_of_its_values(section: str, key: str, value: bool) -> None:
    assert getattr(getattr(parse({section: {key: value}}, Path("/")), section), key) is value


@pytest.mark.parametrize("document", [
    {"plan": {"quiet_seconds": -5}}, {"receive": {"reserve_disk_bytes": -1}}, {"job": {"attempts": 0}},
    {"deliver": {"first_delay_seconds": float("nan")}}, {"node": {"port": 99999}}, {"report": {"sr_sop_classes": []}},
    {"node": {"time_zone": "Mars/Olympus"}},
])  # fmt: skip
def test_a_value_that_cannot_work_is_refused(document: dict[str, dict[str, object]]) -> None:
    with pytest.raises(SettingsError):
        parse(document, Path("/"))
