"""Any order, duplication and interleaving of arrivals ends in the same decision, and nothing is decided too early."""

import functools
import math
from collections.abc import Iterable

from hypothesis import given, settings
from hypothesis import strategies as st

from config.settings import Planning
from dicom_node.decision import Decision, NotEligible, Plan, Waiting, from_json
from dicom_node.instance import Instance
from dicom_node.plan import decide, key
from tests.facts import fact, facts
from tests.synthetic import DEFECTS, ct_series, enhanced_ct, jitter, rtstruct, seg

SETTINGS = Planning()
CT_FILES = ct_series(10, 16, 16, spacing=(1.8, 1.8), seed=5)
NAMES = {"good": list, "jitter": jitter, **DEFECTS}


@functools.cache
def series(name: str) -> tuple[Instance, ...]:
    if name == "enhanced":
        return (fact(enhanced_ct(CT_FILES)),)
    return tuple(facts(NAMES[name](CT_FILES)))


@functools.cache
def contour(references: str, name: str) -> Instance:
    """A contour object on the series as it arrives, which names all, some or none of its images."""
    images = enhanced_ct(CT_FILES) if name == "enhanced" else NAMES[name](CT_FILES)
    match references:
        case "seg":
            return fact(seg(enhanced_ct(CT_FILES) if name == "enhanced" else CT_FILES))
        case "listed":
            return fact(rtstruct(images))
        case "contours":
            return fact(rtstruct(images, series_level_references=False))
        case _:
            return fact(rtstruct(images, series_level_references=False, contour_level_references=False))


@functools.cache
def bystanders() -> tuple[Instance, ...]:
    """Another CT of the same study, and its own contour."""
    other = ct_series(8, 16, 16, seed=6, study_instance_uid=CT_FILES[0].StudyInstanceUID)
    return (*facts(other), fact(rtstruct(other)))


def decision_on(roi: Instance, images: Iterable[Instance], *, quiet: bool, waited: float = 1.0) -> Decision:
    return decide(roi, images, SETTINGS, waited_seconds=waited, quiet=quiet)


def at_last(roi: Instance, images: Iterable[Instance]) -> Decision:
    return decision_on(roi, images, quiet=True, waited=math.inf)


REFERENCES = st.sampled_from(["listed", "seg", "contours", "bare"])
SERIES = st.sampled_from([*NAMES, "enhanced"])


@st.composite
def arrivals(draw: st.DrawFn) -> tuple[Instance, list[Instance]]:
    """A contour object and everything that arrives, itself among it, in some order, some of it several times."""
    name = draw(SERIES)
    roi = contour(draw(REFERENCES), name)
    every = [roi, *series(name), *(bystanders() if draw(st.booleans()) else ())]
    again = draw(st.lists(st.sampled_from(every), max_size=12))
    return roi, draw(st.permutations([*every, *again]))


@settings(max_examples=60, deadline=None)
@given(arrivals())
def test_any_arrival_order_ends_in_the_canonical_decision(scene: tuple[Instance, list[Instance]]) -> None:
    roi, arriving = scene
    canonical = at_last(roi, sorted(set(arriving), key=lambda i: i.sop_instance_uid))
    here: list[Instance] = []
    for instance in arriving:
        here.append(instance)
        if roi in here:
            decision_on(roi, here, quiet=False)
    assert at_last(roi, here) == canonical
    assert not isinstance(canonical, Waiting)
    assert at_last(roi, {i.sop_instance_uid: i for i in here}.values()) == canonical


@settings(max_examples=60, deadline=None)
@given(arrivals())
def test_nothing_is_decided_before_the_references_are_complete(scene: tuple[Instance, list[Instance]]) -> None:
    roi, arriving = scene
    wanted = set(roi.referenced_sop_instance_uids)
    here: dict[str, Instance] = {}
    for instance in arriving:
        here[instance.sop_instance_uid] = instance
        decision = decision_on(roi, here.values(), quiet=False)
        missing = len(wanted - here.keys())
        if missing:
            assert isinstance(decision, Waiting)
            assert decision.missing == missing
            settled = decision_on(roi, here.values(), quiet=True)
            rewritten = isinstance(settled, Plan) and settled.absent == missing == len(wanted)
            assert isinstance(settled, Waiting) or rewritten


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(["good", "jitter", "enhanced"]), st.sampled_from(["listed", "seg"]), st.data())
def test_a_listed_series_is_planned_with_its_last_image_and_never_otherwise_after(
    name: str, references: str, data: st.DataObject
) -> None:
    roi = contour(references, "good" if name == "jitter" else name)
    images = list(series(name))
    order = data.draw(st.permutations([*images, *images[:3], *bystanders()]))
    here: list[Instance] = []
    seen = []
    for instance in order:
        here.append(instance)
        decision = decision_on(roi, here, quiet=False)
        complete = {i.sop_instance_uid for i in here} >= set(roi.referenced_sop_instance_uids)
        assert isinstance(decision, Plan if complete else Waiting)
        if complete:
            seen.append(decision)
    assert len(set(seen)) == 1
    digests = {i.sop_instance_uid: i.digest for i in [roi, *images]}
    assert len({key(decision, digests, (), "bundle") for decision in seen}) == 1


@settings(max_examples=60, deadline=None)
@given(arrivals())
def test_refusals_are_given_once_each_arrival_order_has_one_key(scene: tuple[Instance, list[Instance]]) -> None:
    """A refusal goes to the PACS: while a defective series trickles in, it may be made once, not once per image."""
    roi, arriving = scene
    digests = {i.sop_instance_uid: i.digest for i in arriving}
    here: list[Instance] = []
    keys = set()
    for instance in arriving:
        here.append(instance)
        decision = decision_on(roi, here, quiet=False)
        if isinstance(decision, NotEligible):
            keys.add(key(decision, digests, (), "bundle"))
    assert len(keys) <= 1


@settings(max_examples=60, deadline=None)
@given(arrivals(), st.booleans(), st.floats(0, 1e6), st.integers(0, 40))
def test_every_decision_survives_its_json(
    scene: tuple[Instance, list[Instance]], quiet: bool, waited: float, count: int
) -> None:
    roi, arriving = scene
    decision = decision_on(roi, arriving[:count], quiet=quiet, waited=waited)
    if not isinstance(decision, Waiting):
        assert from_json(decision.to_json()) == decision
