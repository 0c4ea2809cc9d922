"""The model card, for people, for programs and on a terminal: the same figures, and none where too few remain."""

import json
from typing import Any

import pytest
from pydantic import ValidationError

from analysis.train import pipeline
from analysis.train.judging.validation import metrics_of
from analysis.train.model.assemble import manifest_facts, model_of
from analysis.train.model.trained import Trained
from analysis.train.report import card, shown
from analysis.train.report.card_json import ModelCard
from models.bundle import Bundle
from models.manifest import CohortFacts, Manifest
from tests.science import report_metrics

DEEP = ("deep_level2_sd_07", "deep_level3_mean_11")


def facts() -> dict[str, Any]:
    """What the manifest says of a bundle with all three modalities."""
    return {
        "name": "planted-demo",
        "version": "1.2.0",
        "synthetic": True,
        "warning": "SYNTHETIC - NOT FOR CLINICAL USE",
        "intended_use": "Research on prognosis.",
        "endpoints": [
            {"name": "OS", "meaning": "death of any cause", "horizons_months": (12, 36)},
            {"name": "PFS", "meaning": "progression or death of any cause", "horizons_months": (12,)},
        ],
        "modalities": ["clinical", "radiomic", "deep"],
        "clinical": [
            {"name": "albumin", "label": "Albumin", "unit": "g/L"},
            {"name": "ecog", "label": "ECOG", "unit": ""},
        ],
        "minimum_clinical": ("ecog",),
        "radiomic": ("original_shape_MeshVolume",),
        "deep": DEEP,
        "encoder": "encoder.onnx",
        "extraction": {"bin_width": 25},
        "interval_level": 0.9,
        "cohort": {
            "name": "synthetic-240",
            "patients": 240,
            "events": {"OS": 158, "PFS": 184},
            "median_follow_up_months": 27.0,
            "seed": 7,
            "config_digest": "ab" * 32,
        },
    }


def manifest() -> Manifest:
    """As much of a manifest as the summary reads."""
    cohort = CohortFacts(**facts()["cohort"])
    kept = {key: facts()[key] for key in ("name", "version", "synthetic", "warning")}
    return Manifest.model_construct(**kept, cohort=cohort)


def test_the_card_tells_every_modality_endpoint_and_its_own_horizons() -> None:
    text = card.model_card(facts(), report_metrics.built())
    assert (
        "death of any cause (OS) by 12 and 36 months and progression or death of any cause (PFS) by 12 months" in text
    )
    assert "1 features of the contoured lesion, extracted with the settings in `manifest.json`." in text
    assert "2 features of the contoured lesion, from the encoder `encoder.onnx` in the bundle" in text
    assert "each with a 90 % interval" in text
    assert "Licence of the data: not stated." in text
    assert "71 of 107 kept, ICC at least 0.75, 40 patients" in " ".join(text.split())
    assert "survival-forest" in text
    assert "{" not in text


def test_the_card_warns_above_all_else_and_states_its_limits() -> None:
    lines = card.model_card(facts(), report_metrics.built()).splitlines()
    assert lines[2] == "**SYNTHETIC - NOT FOR CLINICAL USE**"
    text = "\n".join(lines)
    for said in ("Research use only", "Preliminary, unverified", "prognostic, not predictive", "Mahalanobis"):
        assert said in text
    real = card.model_card(
        facts() | {"synthetic": False, "warning": "Research use only"}, report_metrics.built(synthetic=False)
    )
    assert "SYNTHETIC" not in real
    assert "synthetic:" not in real


def test_the_tables_hold_every_combination_and_the_baselines_beside_it() -> None:
    found = report_metrics.built()
    rows = card.table(found).splitlines()
    assert len(rows) == 2 + sum(len(model["horizons"]) for model in found["models"])
    assert len({row.count("|") for row in rows}) == 1
    assert [row for row in rows if row.startswith("| tumour size alone | OS | 12 | 0.")]
    assert [row for row in rows if row.startswith("| random encoder alone | PFS | 12 | 0.")]
    separated = card.separation(found).splitlines()
    assert len(separated) == 2 + len(found["models"])
    assert "| p < 0.001 |" in separated[2]


@pytest.mark.parametrize("horizon", [12, 36])
def test_a_horizon_with_too_few_patients_has_no_figure_in_any_card(horizon: int) -> None:
    found = report_metrics.with_too_few(report_metrics.built(), "PFS", horizon)
    for model in found["models"]:
        for line in model["horizons"]:
            if not line["enough"]:
                line |= {"auc": 9.87, "auc_lower": 9.76, "auc_upper": 9.98, "ipa": 8.76, "observed_expected": 7.65}
    texts = (
        card.model_card(facts(), found),
        json.dumps(card.model_card_json(facts(), found)),
        card.summary(manifest(), found),
    )
    for text in texts:
        assert not [figure for figure in ("9.87", "9.76", "9.98", "8.76", "7.65") if figure in text]
    assert f"| PFS | {horizon} | {shown.TOO_FEW} |" in texts[0]
    assert shown.TOO_FEW in texts[2]


def test_the_json_card_is_the_type_it_claims_and_holds_what_a_reader_of_cards_asks() -> None:
    found = report_metrics.built()
    document = json.loads(json.dumps(card.model_card_json(facts(), found), allow_nan=False))
    again = ModelCard.model_validate(document)
    assert again.research_use_only is True
    assert again.data_licence == "not stated"
    assert again.checksums.cohort == "ab" * 32
    assert len(again.models) == len(found["models"])
    assert {feature.modality for feature in again.features} == {"clinical", "radiomic", "deep"}
    volume = next(feature for feature in again.features if feature.name == "original_shape_MeshVolume")
    listed = [line for line in found["features"] if line["name"] == volume.name]
    assert volume.icc == listed[0]["icc"]
    assert volume.selected_share == {line["endpoint"]: line["selected_share"] for line in listed}
    assert again.subgroups[-1].auc.value is None
    assert again.subgroups[-1].patients == 9
    assert any("prognostic, not predictive" in text for text in again.limits)
    assert again.permutations == 40


def test_the_digest_of_preprocessing_follows_the_settings() -> None:
    found = report_metrics.built()
    first = card.model_card_json(facts(), found)["checksums"]["preprocessing"]
    other = card.model_card_json(facts() | {"extraction": {"bin_width": 50}}, found)["checksums"]["preprocessing"]
    assert first != other
    assert card.model_card_json(facts(), found)["checksums"]["preprocessing"] == first


def test_a_stated_licence_is_passed_on() -> None:
    found = report_metrics.built()
    found["cohort"]["licence"] = "CC BY 4.0"
    assert card.model_card_json(facts(), found)["data_licence"] == "CC BY 4.0"
    assert "Licence of the data: CC BY 4.0." in card.model_card(facts(), found)


@pytest.mark.parametrize(
    "change",
    [{"research_use_only": False}, {"colour": "blue"}, {"checksums": {"cohort": "short", "preprocessing": "x"}}],
)
def test_a_json_card_that_says_something_else_is_refused(change: dict[str, Any]) -> None:
    document = card.model_card_json(facts(), report_metrics.built())
    with pytest.raises(ValidationError):
        ModelCard.model_validate(document | change)


def test_sections_that_training_did_not_make_are_said_to_be_absent() -> None:
    found = report_metrics.built()
    for key in ("null", "stability", "learners", "features", "subgroups", "interval_holds_oracle", "curves"):
        del found[key]
    text = card.model_card(facts(), found)
    assert "The whole procedure was not run on shuffled outcomes." in text
    assert "no test of stability made" in text
    assert "None were given." in text
    document = card.model_card_json(facts(), found)
    assert (document["permutations"], document["null"], document["stability"]) == (0, [], None)


def test_the_summary_is_an_aligned_table_of_a_hundred_columns() -> None:
    found = report_metrics.built()
    lines = card.summary(manifest(), found).splitlines()
    assert max(map(len, lines)) <= 100
    assert lines[0] == "bundle planted-demo 1.2.0: 240 patients, OS 158 events, PFS 184 events"
    assert lines[1:4] == [
        "SYNTHETIC - NOT FOR CLINICAL USE",
        "Research use only - not for diagnostic use",
        "Preliminary, unverified",
    ]
    assert not [line for line in lines if "|" in line or "**" in line]
    head = next(line for line in lines if line.startswith("OS "))
    rows = [line for line in lines[lines.index(head) + 1 :] if " to " in line and "HR" not in line][:6]
    assert [row.split("  ")[0] for row in rows[::2]] == ["clinical + radiomic + deep", "clinical", "tumour size alone"]
    for row in rows:
        assert row[head.index("AUC") - 1] == " "
        assert row[head.index("AUC") : head.index("AUC") + 2] == "0."
    assert "report.html" in lines[-2] + lines[-1]


def test_a_long_name_is_cut_and_not_the_figures() -> None:
    found = report_metrics.built()
    for model in found["models"]:
        if model["name"] == "clinical + radiomic + deep":
            model["name"] = "clinical and more words " * 8
    lines = card.summary(manifest(), found).splitlines()
    assert max(map(len, lines)) <= 100
    assert [line for line in lines if "…" in line and "(" in line]


def test_the_cards_of_a_real_training_run(trained: Trained) -> None:
    found, said = metrics_of(trained), manifest_facts(trained)
    text = card.model_card(said, found)
    document = ModelCard.model_validate(card.model_card_json(said, found, model_of(trained)))
    for line in found["models"]:
        for horizon in line["horizons"]:
            figure = shown.TOO_FEW if horizon["auc"] is None else f"{horizon['auc']:.2f} ("
            assert f"| {line['endpoint']} | {horizon['horizon_months']} | {figure}" in text
    assert document.checksums.cohort == trained.cohort.digest
    assert {part.modality for part in document.out_of_distribution} == {block.modality for block in trained.blocks}
    assert all(part.limit > 0 for part in document.out_of_distribution)
    assert {feature.modality for feature in document.features} == {block.modality for block in trained.blocks}


def test_a_bundle_carries_its_card(bundle: Bundle, trained: Trained) -> None:
    text = (bundle.folder / "model_card.md").read_text(encoding="utf-8")
    assert trained.cohort.digest in text
    assert pipeline.card is card
