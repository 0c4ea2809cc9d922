"""The permutation null: outcomes change owners, nothing else does, and p is counted as Phipson and Smyth say."""

from pathlib import Path

import numpy as np
import pytest

from analysis.train.data import cohort
from analysis.train.data.cohort import Outcome
from analysis.train.model import design, null
from analysis.train.model.null import Null
from tests import cohorts

KEY = (("clinical",), "OS")


def test_p_counts_the_observed_run_among_the_permutations_and_is_never_zero() -> None:
    found = Null(4, {KEY: np.array([0.50, 0.55, 0.60, 0.65])})
    assert found.p_value(KEY, 0.70) == pytest.approx(1 / 5)
    assert found.p_value(KEY, 0.60) == pytest.approx(3 / 5)  # as well counts too
    assert found.p_value(KEY, 0.40) == pytest.approx(1.0)
    assert Null(0, {KEY: np.array([])}).p_value(KEY, 0.9) == 1.0


def test_shuffling_keeps_the_endpoints_of_a_patient_and_time_and_event_together() -> None:
    patients = cohorts.patients(80)
    given = {
        "OS": Outcome(patients.os_time, patients.os_event, (12,)),
        "PFS": Outcome(patients.pfs_time, patients.pfs_event, (6, 12)),
    }
    drawn = null.shuffled(given, np.random.default_rng(1))

    def rows(of: dict[str, Outcome]) -> list[tuple[float, ...]]:
        return list(zip(*(column for outcome in of.values() for column in (outcome.time, outcome.event)), strict=True))

    assert rows(drawn) != rows(given)
    assert sorted(rows(drawn)) == sorted(rows(given))
    assert drawn["PFS"].horizons == (6, 12)
    assert (drawn["PFS"].time <= drawn["OS"].time).all()


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> cohort.Cohort:
    path = cohorts.write(tmp_path_factory.mktemp("cohort"), cohorts.patients(140), permutations=9)
    return cohort.load(path)


def test_a_planted_effect_beats_every_permutation_and_the_permutations_lie_about_a_half(loaded: cohort.Cohort) -> None:
    from analysis.train.judging.ranking import within_folds
    from analysis.train.model import crossval

    block = design.blocks(loaded)[0]
    settings, outcomes = loaded.file.training, {"OS": loaded.outcomes["OS"]}
    chance = null.permuted([block], outcomes, settings, 1)
    observed = within_folds(crossval.nested([block], outcomes, settings, 1).repeats, *KEY, outcomes["OS"])
    assert chance.concordance[KEY].shape == (9,)
    assert abs(chance.concordance[KEY].mean() - 0.5) < 0.05
    assert chance.p_value(KEY, observed) == pytest.approx(0.1)
    assert chance.p_value(KEY, 0.5) > 0.1


def test_the_null_is_the_same_again_and_with_more_processes(loaded: cohort.Cohort) -> None:
    block = design.blocks(loaded)[0]
    settings = loaded.file.training.model_copy(update={"permutations": 3})
    outcomes = {"OS": loaded.outcomes["OS"]}
    counted: list[int] = []
    first = null.permuted([block], outcomes, settings, 1, counted.append)
    again = null.permuted([block], outcomes, settings, 1, workers=2)
    assert np.array_equal(first.concordance[KEY], again.concordance[KEY])
    assert len(set(first.concordance[KEY])) == 3
    assert counted == [1, 2, 3]


def test_without_permutations_there_is_no_null(loaded: cohort.Cohort, tmp_path: Path) -> None:
    settings = loaded.file.training.model_copy(update={"permutations": 0})
    found = null.permuted(design.blocks(loaded), loaded.outcomes, settings, 1)
    assert not found.concordance
