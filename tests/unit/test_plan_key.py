"""Decisions as text, and the content key: everything that decides the result, and nothing else."""

import json
from dataclasses import replace

import pytest

from analysis.contract import ClinicalValue, Combine
from dicom_node.decision import NotEligible, Plan, PlanError, from_json
from dicom_node.instance import Instance
from dicom_node.plan import key
from tests.facts import fact, facts
from tests.planning import CT_FILES, at_last, now
from tests.synthetic import rtstruct, two_phases


@pytest.fixture(scope="module")
def ct() -> list[Instance]:
    return facts(CT_FILES)


@pytest.fixture(scope="module")
def contour() -> Instance:
    return fact(rtstruct(CT_FILES))


def test_decisions_come_back_from_json(ct: list[Instance], contour: Instance) -> None:
    plan, refusal = now(contour, ct), at_last(contour, ct[:10])
    assert isinstance(plan, Plan)
    assert isinstance(refusal, NotEligible)
    assert from_json(plan.to_json()) == Plan.from_json(plan.to_json()) == plan
    assert from_json(refusal.to_json()) == NotEligible.from_json(refusal.to_json()) == refusal
    with pytest.raises(PlanError):
        Plan.from_json(refusal.to_json())
    with pytest.raises(PlanError):
        NotEligible.from_json(plan.to_json())


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", "1", '"PLAN"', "{}", '{"decision":"PLAN"}', '{"decision":"OTHER"}']
)
def test_other_texts_are_no_decision(text: str) -> None:
    with pytest.raises(PlanError):
        from_json(text)


def test_fields_of_the_wrong_kind_are_no_decision(ct: list[Instance], contour: Instance) -> None:
    plan = now(contour, ct)
    assert isinstance(plan, Plan)
    for field, value in (("combine", "first"), ("roi_numbers", 1), ("extra", 1)):
        with pytest.raises(PlanError):
            from_json(json.dumps(json.loads(plan.to_json()) | {field: value}))


def test_the_key_depends_on_everything_that_decides_the_result(ct: list[Instance], contour: Instance) -> None:
    plan = now(contour, ct)
    assert isinstance(plan, Plan)
    digests = {image.sop_instance_uid: image.digest for image in [contour, *ct]}
    age = ClinicalValue(name="age", value=74.0, unit="a", source="DICOM PatientAge")
    sex = ClinicalValue(name="sex", value="F", source="DICOM PatientSex")
    base = key(plan, digests, (age, sex), "bundle")
    assert len(base) == 64
    assert base == key(plan, {**digests, "unused": "x"}, (sex, age), "bundle")
    assert key(plan, digests, (), "", config={"a": 1, "b": 2}) == key(plan, digests, (), "", config={"b": 2, "a": 1})
    others = [
        key(plan, {**digests, ct[3].sop_instance_uid: "0" * 64}, (age, sex), "bundle"),
        key(plan, {**digests, contour.sop_instance_uid: "0" * 64}, (age, sex), "bundle"),
        key(replace(plan, roi_numbers=(2,)), digests, (age, sex), "bundle"),
        key(replace(plan, combine=Combine.UNION), digests, (age, sex), "bundle"),
        key(replace(plan, ct_sop_instance_uids=plan.ct_sop_instance_uids[1:]), digests, (age, sex), "bundle"),
        key(plan, digests, (age,), "bundle"),
        key(plan, digests, (age, sex), "other bundle"),
        key(plan, digests, (age, sex), "bundle", pipeline_version="9"),
        key(plan, digests, (age, sex), "bundle", config={"language": "en"}),
        key(at_last(contour, ct[:11]), digests, (age, sex), "bundle"),
    ]
    assert len({base, *others}) == 1 + len(others)


def test_the_key_needs_the_digest_of_every_input(ct: list[Instance], contour: Instance) -> None:
    with pytest.raises(KeyError):
        key(now(contour, ct), {}, (), "bundle")


def test_details_carry_no_identifier(ct: list[Instance], contour: Instance) -> None:
    for decision in (now(contour, ct[:3]), at_last(contour, ct[:3]), now(contour, facts(two_phases(CT_FILES)))):
        assert not isinstance(decision, Plan)
        assert "." not in decision.detail
