"""Routing rules: which one counts for whom, what it has of [plan], and what is refused in words."""

import tomllib
from pathlib import Path

import pytest

from config.effective import as_toml, values
from config.settings import Settings, SettingsError, load, parse

PEERS = """
[plan]
minimum_slices = 9
several_rois = "largest"
[[peers]]
ae_title = "PACS"
receives_results = true
[[peers]]
ae_title = "CT_1"
[[hl7_peers]]
name = "RIS"
"""
RULES = """
[[rules]]
name = "radiotherapy"
calling_ae_titles = ["ARIA", "RT_?"]
bundle = "rt"
destinations = ["PACS", "hl7:RIS"]
priority = "HIGH"
plan = { minimum_slices = 20 }
[[rules]]
name = "trial"
calling_ae_titles = ["RT_1", "TRIAL*"]
shadow = true
"""


def settings(text: str) -> Settings:
    return parse(tomllib.loads(text), Path("/site"))


def test_the_first_rule_that_matches_counts_and_without_one_all_is_as_without_rules() -> None:
    ruled, plain = settings(PEERS + RULES), settings(PEERS)
    assert [ruled.rule_for(title).name for title in ("ARIA", " RT_1 ", "TRIAL7", "TRIAL", "CT_1", "aria", "RT_10")] == [
        "radiotherapy", "radiotherapy", "trial", "trial", "", "", "",
    ]  # fmt: skip
    own = ruled.rule_for("CT_1")
    assert own == plain.rule_for("ARIA")
    assert (own.bundle, own.destinations, own.priority, own.shadow) == (None, None, "MEDIUM", False)
    assert own.plan == ruled.plan


def test_a_rule_has_the_plan_of_the_node_where_it_says_nothing_else() -> None:
    radiotherapy, trial = settings(PEERS + RULES).rules
    assert (radiotherapy.plan.minimum_slices, radiotherapy.plan.several_rois) == (20, "largest")
    assert trial.plan == settings(PEERS).plan
    assert radiotherapy.bundle == Path("/site/rt")


def test_a_pattern_takes_signs_of_regular_expressions_as_they_are() -> None:
    rule = settings('[[rules]]\nname = "x"\ncalling_ae_titles = ["A.B[1]", "*-LAB"]').rules[0]
    assert [rule.matches(title) for title in ("A.B[1]", "AxB1", "A.B1", "CT-LAB", "CT-LAB2")] == [
        True, False, False, True, False,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[[rules]]\nname = "a/b"', "[[rules]] 'a/b': use a name of 1 to 64 letters, digits"),
        ('[[rules]]\nname = "a"\ncalling_ae_titles = []', "use AE titles, with * and ?"),
        ('[[rules]]\nname = "a"\ncalling_ae_titles = ["SEVENTEEN-LETTERS"]', "use AE titles, with * and ?"),
        ('[[rules]]\nname = "a"\n[[rules]]\nname = "b"', "'b' is never reached: 'a' before it takes every AE title"),
        (
            '[[rules]]\nname = "a"\ncalling_ae_titles = ["X"]\n[[rules]]\nname = "a"\ncalling_ae_titles = ["Y"]',
            "[[rules]] names a more than once",
        ),
        (
            '[[rules]]\nname = "a"\ndestinations = ["CT_1"]',
            "destination 'CT_1' gets no results; give it receives_results = true in [[peers]], [[hl7_peers]]",
        ),
        ('[[rules]]\nname = "a"\nshadow = true\ndestinations = ["PACS"]', "shadow = true sends nothing"),
        ('[[rules]]\nname = "a"\npriority = "URGENT"', "'rules[0].priority' must be one of 'HIGH', 'MEDIUM', 'LOW'"),
        ('[[rules]]\nname = "a"\nplan = { minimum_slice = 1 }', "'rules[0].plan.minimum_slice' (did you mean"),
        ('[[rules]]\nname = "a"\nplan = { minimum_slices = 0 }', "'rules a plan.minimum_slices' must be a number"),
        ('[[rules]]\nname = "a"\nplan = 3', "'rules[0].plan' must be a table"),
        ('[[rules]]\nname = "a"\nshadows = true', "unknown key 'rules[0].shadows' (did you mean 'shadow'?)"),
        ("rules = 3", "'rules' must be a list"),
    ],
)
def test_a_rule_that_could_not_do_what_it_says_is_refused_in_words(text: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings(text + PEERS if text.startswith("rules") else PEERS + text)
    assert message in str(caught.value)


def test_what_show_prints_of_rules_means_the_same_and_says_what_is_of_plan(tmp_path: Path) -> None:
    path = tmp_path / "prognode.toml"
    path.write_text(PEERS + RULES)
    loaded, found = values(path, {"PROGNODE_PLAN__QUIET_SECONDS": "5"})
    shown = as_toml(found)
    assert parse(tomllib.loads(shown), tmp_path).rules == loaded.rules
    assert loaded == load(path, {"PROGNODE_PLAN__QUIET_SECONDS": "5"})
    lines = shown[shown.index("[[rules]]") :].splitlines()
    assert f"minimum_slices = 20  # {path}" in lines
    assert "quiet_seconds = 5.0  # [plan]" in lines
    assert [one.key for one in found if one.changed and one.key.startswith("rules[0].plan")] == [
        "rules[0].plan.minimum_slices"
    ]
