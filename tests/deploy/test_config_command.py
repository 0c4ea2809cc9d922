"""`prognode config`: what it writes can be read again, and each value says where it comes from."""

import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from config.effective import template, text, values
from config.environment import overrides
from config.settings import Settings, SettingsError, load, parse
from dicom_node import clinical_codes
from dicom_node.cli import app

SITE = """
[node]
ae_title = "LUNG"
port = 104

[[peers]]
ae_title = "PACS"
receives_results = true
[[peers]]
ae_title = "CT"
addresses = ["10.1.2.0/24"]

[web.oidc]
issuer = "https://login.example/a\\"b"
"""


MISTAKES = """
bundel = "x"
[node]
prot = 104
ae_title = "SEVENTEEN-LETTERS"
[[peers]]
host = "10.1.1.1"
[[peers]]
ae_title = "CT"
port = "104"
addresses = ["10.1.2.300", 7]
[plan]
minimum_slices = 0
roi_name_patterns = ["("]
roi_exclude_patterns = 7
[tls]
listen = "beside"
[clinical]
codes = "codes.toml"
[web]
host = "0.0.0.0"
"""


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PROGNODE_CONFIG", raising=False)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    path = tmp_path / "prognode.toml"
    path.write_text(SITE)
    return path


def run(*arguments: str | Path, **environment: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, ["config", *map(str, arguments)], env=dict(environment))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


# -- init --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [[], ["--complete"]])
def test_a_file_that_init_wrote_has_the_defaults_and_the_spool_that_was_asked_for(
    tmp_path: Path, form: list[str]
) -> None:
    path = tmp_path / "new.toml"
    code, said = run("init", path, "--spool", "/srv/spool", *form)
    assert (code, f"config check --config {path}" in said) == (0, True)
    loaded = load(path)
    assert loaded.node.spool == Path("/srv/spool")
    assert loaded == load(path, {"PROGNODE_NODE__SPOOL": "/srv/spool"})
    assert vars(loaded) | {"node": None} == vars(Settings()) | {"node": None}


def test_the_short_form_is_a_part_of_the_long_one_with_what_each_site_sets() -> None:
    short, long = template(complete=False), template(complete=True)
    head, _, rest = short.partition("\n\n\n")
    assert all(line in long.splitlines() for line in rest.splitlines())
    assert set(tomllib.loads(short)) == {"node", "web"}
    assert "# [[peers]]" in short
    assert "# [[hl7_peers]]" not in short
    assert "\n# bundle = " in head
    assert "config init" in head


def test_a_file_that_is_there_is_only_written_over_with_force(site: Path) -> None:
    code, said = run("init", site)
    assert (code, "--force" in said) == (73, True)
    assert site.read_text() == SITE
    assert run("init", site, "--force")[0] == 0
    assert load(site) == load(None, {"PROGNODE_NODE__SPOOL": str(site.parent / "spool")})


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    code, said = run("init", tmp_path / "nowhere" / "prognode.toml")
    assert code == 73
    assert "nowhere/prognode.toml: No such file" in said


def test_check_names_each_file_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "prognode.toml"
    path.write_text('[clinical]\ntable = "a.csv"\ncodes = "b.toml"\n[[fhir_servers]]\nname = "EHR"\n'
                    'base_url = "https://x/r4"\ntoken_file = "c.token"\n')  # fmt: skip
    code, said = run("check", "--config", path)
    assert code == 78
    assert [line.split()[2] for line in said.splitlines()] == [
        "clinical.table:", "clinical.codes:", "fhir_servers[0].token_file:",
    ]  # fmt: skip
    assert f"{tmp_path / 'b.toml'} is not there" in said
    for name in ("a.csv", "c.token"):
        (tmp_path / name).touch()
    (tmp_path / "b.toml").write_text("[nonsense]\n[sense]")
    code, said = run("check", "--config", path)
    assert (code, said.count("FAIL"), "unknown table [nonsense], [sense]" in said) == (78, 1, True)
    (tmp_path / "b.toml").write_text("")
    clinical_codes.load.cache_clear()
    assert run("check", "--config", path)[0] == 0


def test_a_file_that_init_wrote_does_not_differ_from_the_defaults(tmp_path: Path) -> None:
    run("init", tmp_path / "new.toml")
    assert "0 values differ from the defaults" in run("check", "--config", tmp_path / "new.toml")[1]
    assert run("diff", "--config", tmp_path / "new.toml")[1] == "# nothing differs from the defaults\n"
    said = run("check", "--config", tmp_path / "new.toml", PROGNODE_NODE__PORT="104")[1]
    assert "1 value differs from the defaults, 1 from the environment" in said


# -- show, diff --------------------------------------------------------------------------------------------------


def test_what_show_prints_is_a_settings_file_that_means_the_same(site: Path) -> None:
    _, said = run("show", "--config", site)
    assert parse(tomllib.loads(said), Path("/elsewhere")) == parse(
        tomllib.loads(SITE) | {"node": tomllib.loads(SITE)["node"] | {"spool": "spool"}}, Path("/elsewhere")
    )


def test_each_value_says_whether_it_is_of_the_file_of_a_variable_or_the_default(site: Path) -> None:
    _, said = run("show", "--config", site, PROGNODE_NODE__PORT="11113", PROGNODE_WEB__OIDC__CLIENT_ID="a#b")
    lines = said.splitlines()
    assert f'ae_title = "LUNG"  # {site}' in lines
    assert "port = 11113  # PROGNODE_NODE__PORT" in lines
    assert 'client_id = "a#b"  # PROGNODE_WEB__OIDC__CLIENT_ID' in lines
    assert 'addresses = ["10.1.2.0/24"]  # ' + str(site) in lines
    assert "tls = false  # default" in lines
    assert "# bundle: not set" in lines


def test_diff_has_what_differs_and_nothing_else(site: Path) -> None:
    _, said = run("diff", "--config", site, PROGNODE_PLAN__MINIMUM_SLICES="9")
    assert said.splitlines() == [
        f'node.ae_title = "LUNG"  # default "PROGNODE"; {site}',
        f"node.port = 104  # default 11112; {site}",
        f'peers[0].ae_title = "PACS"  # {site}',
        f"peers[0].receives_results = true  # default false; {site}",
        f'peers[1].ae_title = "CT"  # {site}',
        f'peers[1].addresses = ["10.1.2.0/24"]  # default []; {site}',
        "plan.minimum_slices = 9  # default 8; PROGNODE_PLAN__MINIMUM_SLICES",
        f'web.oidc.issuer = "https://login.example/a\\"b"  # default ""; {site}',
    ]
    assert run("diff")[1] == "# nothing differs from the defaults\n"


def test_a_secret_file_is_shown_by_its_name_alone(tmp_path: Path) -> None:
    (tmp_path / "fhir.token").write_text("correct horse battery staple")
    path = tmp_path / "prognode.toml"
    path.write_text('[[fhir_servers]]\nname = "EHR"\nbase_url = "https://x/r4"\ntoken_file = "fhir.token"\n')
    for command in ("show", "diff", "check"):
        code, said = run(command, "--config", path)
        assert code == 0
        assert "battery" not in said
    assert str(tmp_path / "fhir.token") in run("show", "--config", path)[1]


# -- variables ---------------------------------------------------------------------------------------------------


def test_variables_go_over_the_file_in_each_kind_of_value(site: Path) -> None:
    loaded = load(
        site,
        {
            "PROGNODE_NODE__PORT": "11114",
            "PROGNODE_NODE__SPOOL": "data",
            "PROGNODE_NODE__SITE": "104",  # a text stays a text
            "PROGNODE_RECEIVE__KNOWN_CALLERS_ONLY": "false",
            "PROGNODE_DELIVER__DELAY_FACTOR": "3",
            "PROGNODE_PLAN__ROI_NAME_PATTERNS": '["^gtv", "x"]',
            "PROGNODE_TLS__CERTIFICATE": "/run/node.pem",
            "PROGNODE_TLS__PRIVATE_KEY": "/run/node.key",
            "PROGNODE_TLS__LISTEN": "beside",
            "PROGNODE_AUDIT__SYSLOG__HOST": "collector",
            "PROGNODE_BUNDLE": "/opt/bundle",
            "PROGNODE_CONFIG": "ignored",
            "HOME": "/root",
        },
    )
    assert (loaded.node.ae_title, loaded.node.port, loaded.node.spool) == ("LUNG", 11114, site.parent / "data")
    assert (loaded.node.site, loaded.receive.known_callers_only, loaded.deliver.delay_factor) == ("104", False, 3.0)
    assert loaded.plan.roi_name_patterns == ("^gtv", "x")
    assert (loaded.tls.listen, loaded.audit.syslog.host, loaded.bundle) == ("beside", "collector", Path("/opt/bundle"))
    assert [peer.ae_title for peer in loaded.peers] == ["PACS", "CT"]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("PROGNODE_NODE__PROT", "1", "unknown variable PROGNODE_NODE__PROT (did you mean PROGNODE_NODE__PORT?)"),
        ("PROGNODE_QUEUE__X", "1", "unknown variable PROGNODE_QUEUE__X"),
        ("PROGNODE_PEERS__0__HOST", "x", "[[peers]] stand in the settings file alone"),
        ("PROGNODE_NODE__PORT", "a hundred", "PROGNODE_NODE__PORT: is no TOML value; write it as in"),
        ("PROGNODE_NODE__PORT", "104\nx = 1", "PROGNODE_NODE__PORT: is no TOML value"),
        ("PROGNODE_NODE__PORT", "'104'", "'node.port' must be a whole number, without quotes, not '104'"),
        ("PROGNODE_NODE__PORT", "70000", "'node.port' must be from 0 to 65535"),
        ("PROGNODE_JOB__EXECUTOR", "podman?", "'job.executor' must be one of"),
    ],
)
def test_a_variable_that_cannot_be_used_is_named(name: str, value: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load(None, {name: value})
    assert message in str(caught.value)


def test_every_setting_that_is_no_list_of_tables_has_a_variable() -> None:
    shown = [one for one in values(None, {})[1] if "[" not in one.key]
    assert len(shown) > 100
    for one in shown:
        name = "PROGNODE_" + one.key.upper().replace(".", "__")
        plain = "x" if one.value is None else str(one.value) if isinstance(one.value, str | Path) else text(one.value)
        ((key, value),) = overrides(Settings, {name: plain}).items()
        assert key == one.key
        assert one.value is None or text(one.value) == text(tuple(value) if isinstance(value, list) else value)


# -- check -------------------------------------------------------------------------------------------------------


def test_check_names_the_file_and_how_much_it_sets(site: Path) -> None:
    assert run("check", "--config", site, PROGNODE_UPS__ENABLED="true") == (
        0,
        f"ok  {site}; 8 values differ from the defaults, 1 from the environment\n",
    )


def test_check_ends_with_78_at_a_misspelt_key(site: Path) -> None:
    site.write_text(SITE.replace("port = 104", "prot = 104"))
    what = f"{site}: unknown key 'node.prot' (did you mean 'port'?)\n"
    assert run("check", "--config", site) == (78, f"FAIL {what}")
    for command in ("show", "diff"):
        assert run(command, "--config", site) == (78, f"prognode: {what}")


def test_check_names_every_mistake_each_with_file_key_and_remedy(site: Path) -> None:
    site.write_text(MISTAKES)
    code, said = run("check", "--config", site, PROGNODE_NODE__PORTT="1", PROGNODE_JOB__ATTEMPTS="many")
    assert code == 78
    expected = [
        f"FAIL {line}" if line.startswith(("PROGNODE_", "unknown variable")) else f"FAIL {site}: {line}"
        for line in [
            "PROGNODE_JOB__ATTEMPTS: is no TOML value; write it as in PROGNODE_JOB__ATTEMPTS='30'",
            "unknown variable PROGNODE_NODE__PORTT (did you mean PROGNODE_NODE__PORT?)",
            "unknown key 'bundel' (did you mean 'bundle'?)",
            "unknown key 'node.prot' (did you mean 'port'?)",
            "'peers[0]' lacks ae_title; give it",
            "'peers[1].port' must be a whole number, without quotes, not '104'",
            "'peers[1].addresses[1]' must be a text in quotes, not 7",
            "'plan.roi_exclude_patterns' must be a list",
            "[node] ae_title 'SEVENTEEN-LETTERS': use 1 to 16 printable ASCII characters, no backslash",
            "[[peers]] CT: '10.1.2.300' in addresses is no network; write 10.1.2.3 or 10.1.2.0/24",
            "'plan.minimum_slices' must be a number above 0, not 0",
            "[tls] listen = 'beside' needs certificate and private_key",
            f"clinical.codes: {site.parent}/codes.toml is not there, or not to be read; put the file there, or correct",
            "[plan] roi_name_patterns or roi_exclude_patterns: '(' is not a regular expression (missing ), unter",
            "[web] host '0.0.0.0' can be reached from elsewhere, and there is no certificate: set certificate and",
        ]
    ]
    assert [line[: len(wanted)] for line, wanted in zip(said.splitlines(), expected, strict=True)] == expected


def test_what_would_only_follow_from_a_slip_is_not_called_a_mistake(site: Path) -> None:
    site.write_text(
        '[[peer]]\nae_title = "PACS"\nreceives_results = true\n[[rules]]\nname = "a"\ndestinations = ["PACS"]\n'
        '[tls]\nlisten = "beside"\ncertificat = "a.pem"\nprivate_key = "a.key"\n'
        '[web]\nhost = "0.0.0.0"\npublic_ulr = "https://x"\n[plan]\nminimum_slices = -1\nquiet_second = 3\n'
    )
    (site.parent / "a.key").touch()
    said = [line.removeprefix(f"FAIL {site}: ") for line in run("check", "--config", site)[1].splitlines()]
    assert said == [
        "unknown key 'plan.quiet_second' (did you mean 'quiet_seconds'?)",  # once, though the rule has it from [plan]
        "unknown key 'peer' (did you mean 'peers'?)",
        "unknown key 'tls.certificat' (did you mean 'certificate'?)",
        "unknown key 'web.public_ulr' (did you mean 'public_url'?)",
        "'plan.minimum_slices' must be a number above 0, not -1",
    ]


def test_a_command_says_the_first_mistake_and_how_many_more_there_are(site: Path) -> None:
    site.write_text("[node]\nprot = 1\nsight = 2\nport = 'x'\n")
    first, more = f"prognode: {site}: unknown key 'node.prot' (did you mean 'port'?)", "(and 2 more mistakes: prognode"
    assert run("show", "--config", site) == (78, f"{first} {more} config check names each)\n")


# -- rule --------------------------------------------------------------------------------------------------------


def test_rule_says_what_counts_for_an_ae(site: Path) -> None:
    site.write_text(
        SITE + '[[rules]]\nname = "rt"\ncalling_ae_titles = ["RT*"]\nshadow = true\npriority = "LOW"\n'
        "plan = { minimum_slices = 20 }\n"
    )
    code, said = run("rule", "RT_1", "--config", site)
    assert (code, said.splitlines()) == (0, [
        "RT_1: rule rt", "it is refused: it has no [[peers]] entry with sends = true",
        "bundle: the demo bundle that comes with the package", "destinations: none, it is a shadow",
        "priority: LOW", "minimum_slices = 20  # elsewhere 8",
    ])  # fmt: skip
    code, said = run("rule", "CT", "--config", site)
    first, _, destinations, _ = said.splitlines()
    assert (code, first, destinations) == (0, "CT: no rule: as the settings are without rules", "destinations: PACS")
