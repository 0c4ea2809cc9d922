"""Cohorts that would flatter a model are refused by the names of their columns and rows; honest ones are not."""

import csv
from pathlib import Path

import numpy as np
import pytest

from analysis.train import pipeline
from analysis.train.data import cohort, suspicion
from analysis.train.data.cohort import CohortError
from analysis.train.model import design

COUNT = 120
Cells = list[str]


class Table:
    """Planted patients: age and NLR with a modest effect, survival in months, a tenth censored early."""

    def __init__(self, seed: int = 4) -> None:
        self.rng = np.random.default_rng(seed)
        self.risk = self.rng.normal(size=COUNT)
        death = 14 * self.rng.exponential(size=COUNT) * np.exp(-0.6 * self.risk)
        censored = self.rng.uniform(6, 60, COUNT)
        self.time, self.event = np.minimum(death, censored) + 0.1, death <= censored
        self.columns: dict[str, Cells] = {
            "age": [f"{value:.0f}" for value in self.rng.uniform(40, 85, COUNT)],
            "nlr": [f"{value:.2f}" for value in np.exp(1 + 0.5 * self.risk + self.rng.normal(0, 0.5, COUNT))],
        }
        self.types = {"age": 'type = "number"', "nlr": 'type = "number"'}

    def add(self, name: str, cells: Cells, said: str = 'type = "number"') -> None:
        self.columns[name], self.types[name] = cells, said

    def numbers(self, name: str, values: np.ndarray, said: str = 'type = "number"') -> None:
        self.add(name, ["" if np.isnan(value) else f"{value:.6g}" for value in values], said)

    def write(self, folder: Path, repeated: tuple[int, ...] = ()) -> Path:
        with (folder / "table.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["id", *self.columns, "months", "died"])
            for number, row in enumerate([*range(COUNT), *repeated]):
                values = [cells[row] for cells in self.columns.values()]
                writer.writerow([f"SECRET-{number}", *values, f"{self.time[row]:.6f}", int(self.event[row])])
        predictors = "".join(f'[[clinical.predictors]]\nname = "{n}"\n{said}\n\n' for n, said in self.types.items())
        path = folder / "cohort.toml"
        path.write_text(
            '[cohort]\nname = "trap"\ntable = "table.csv"\npatient_id = "id"\n\n'
            '[outcomes.OS]\ntime = "months"\nevent = "died"\nunit = "months"\nhorizons_months = [12]\n\n'
            f"{predictors}[training]\nrepeats = 1\nbootstrap = 20\npermutations = 0\n"
        )
        return path


def check(path: Path) -> None:
    loaded = cohort.load(path)
    suspicion.check(loaded, design.blocks(loaded))


def refusal(path: Path) -> str:
    with pytest.raises(CohortError) as found:
        check(path)
    assert "SECRET" not in str(found.value)
    return str(found.value)


def test_an_honest_table_passes(tmp_path: Path) -> None:
    check(Table().write(tmp_path))


def noisy(values: np.ndarray, table: Table) -> np.ndarray:
    return np.asarray(values * np.exp(table.rng.normal(0, 0.03, COUNT)))


@pytest.mark.parametrize(
    ("name", "leak"),
    [
        ("survival_days", lambda t: t.time * 30.4375),
        ("cycles", lambda t: noisy(t.time / 0.7, t)),
        ("minus_time", lambda t: -t.time),
        ("died_by_then", lambda t: t.event.astype(float)),
        ("alive", lambda t: 1.0 - t.event),
        ("last_dose_mg", lambda t: np.where(t.event, 0.0, t.rng.uniform(100, 200, COUNT))),
        ("autopsy", lambda t: np.where(t.event, t.rng.normal(size=COUNT), np.nan)),
        ("next_visit", lambda t: np.where(t.event, np.nan, t.rng.normal(size=COUNT))),
    ],
)
def test_a_column_that_knows_the_outcome_is_refused_by_its_name(tmp_path: Path, name: str, leak) -> None:
    table = Table()
    table.numbers(name, leak(table))
    said = refusal(table.write(tmp_path))
    assert f"column '{name}'" in said
    assert "OS" in said
    assert "take it off the list of predictors" in said


def test_a_yes_or_no_that_says_who_died_is_refused(tmp_path: Path) -> None:
    table = Table()
    table.add("deceased", ["yes" if event else "no" for event in table.event], 'type = "boolean"')
    assert "column 'deceased'" in refusal(table.write(tmp_path))


def test_training_refuses_it_before_anything_is_written(tmp_path: Path) -> None:
    table = Table()
    table.numbers("survival_days", table.time * 30)
    with pytest.raises(CohortError, match="survival_days"):
        pipeline.train(table.write(tmp_path), tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_several_leaks_are_counted(tmp_path: Path) -> None:
    table = Table()
    table.numbers("days", table.time * 30)
    table.numbers("weeks", table.time * 4.3)
    assert "(1 more like it)" in refusal(table.write(tmp_path))


def test_an_honest_predictor_far_stronger_than_any_known_one_passes(tmp_path: Path) -> None:
    """The very log hazard that the patients were drawn from, three times as strong as what is published."""
    table = Table()
    strong = 2.0 * table.risk
    death = 14 * table.rng.exponential(size=COUNT) * np.exp(-strong)
    table.time, table.event = np.minimum(death, 60) + 0.1, death <= 60
    table.numbers("oracle", strong)
    path = table.write(tmp_path)
    check(path)
    loaded = cohort.load(path)
    block = design.blocks(loaded)[0]
    outcome = loaded.outcomes["OS"]
    ranked = suspicion.concordance(block.matrix[:, block.names.index("oracle")], outcome.time, outcome.event)
    assert 0.75 < ranked < suspicion.LEAK_CONCORDANCE  # else the test would show nothing


def test_values_missing_without_regard_to_the_outcome_pass_even_if_half_of_them_are(tmp_path: Path) -> None:
    table = Table()
    table.numbers("pdl1", np.where(table.rng.random(COUNT) < 0.5, np.nan, table.rng.uniform(1, 100, COUNT)))
    check(table.write(tmp_path))


def test_a_patient_who_stands_in_the_table_twice_is_refused_by_the_rows(tmp_path: Path) -> None:
    table = Table()
    table.numbers("albumin", table.rng.normal(38, 4, COUNT))
    said = refusal(table.write(tmp_path, repeated=(0, 7)))
    assert f"rows 2 and {COUNT + 2}, 9 and {COUNT + 3}" in said
    assert "keep one row per patient" in said


def test_more_than_five_duplicates_are_not_all_listed(tmp_path: Path) -> None:
    table = Table()
    table.numbers("albumin", table.rng.normal(38, 4, COUNT))
    said = refusal(table.write(tmp_path, repeated=tuple(range(8))))
    assert "and more" in said
    assert said.count(" and 12") == 5


def test_the_same_values_with_another_outcome_are_two_patients(tmp_path: Path) -> None:
    table = Table()
    table.numbers("albumin", table.rng.normal(38, 4, COUNT))
    for cells in table.columns.values():
        cells[1] = cells[0]
    check(table.write(tmp_path))


def test_two_patients_who_share_two_values_and_an_outcome_are_no_evidence(tmp_path: Path) -> None:
    """Age and sex and a survival in whole months: that happens."""
    check(Table().write(tmp_path, repeated=(3,)))


def test_mixed_units_are_refused_by_the_column_and_how_far_apart_they_lie(tmp_path: Path) -> None:
    table = Table()
    albumin = table.rng.normal(38, 4, COUNT)
    albumin[::4] /= 10  # g/dL among g/L
    table.numbers("albumin", albumin)
    said = refusal(table.write(tmp_path))
    assert "column 'albumin'" in said
    assert "about 10 times" in said
    assert "state minimum and maximum" in said


def test_mixed_units_are_named_by_the_tables_column(tmp_path: Path) -> None:
    table = Table()
    ldh = np.where(np.arange(COUNT) % 3 == 0, 1.0, 60.0) * table.rng.uniform(2.5, 5.5, COUNT)
    table.numbers("ldh", ldh)
    path = table.write(tmp_path)
    path.write_text(path.read_text().replace('name = "ldh"', 'name = "lactate_dehydrogenase"\ncolumn = "ldh"'))
    assert "column 'ldh'" in refusal(path)


def test_where_the_cohort_file_states_a_range_it_is_that_which_is_checked(tmp_path: Path) -> None:
    table = Table()
    albumin = table.rng.normal(38, 2, COUNT)
    albumin[::4] /= 10
    table.numbers("albumin", albumin, 'type = "number"\nminimum = 1\nmaximum = 60')
    check(table.write(tmp_path))
    table.types["albumin"] = 'type = "number"\nminimum = 10\nmaximum = 60'
    with pytest.raises(CohortError, match=r"(?s)row 2.*albumin"):
        check(table.write(tmp_path))


@pytest.mark.parametrize(
    "values",
    [
        lambda rng: np.exp(rng.normal(3, 1.5, COUNT)),  # skewed over three decades, without a gap
        lambda rng: np.where(rng.random(COUNT) < 0.3, 0.0, rng.uniform(20, 100, COUNT)),  # many zeros
        lambda rng: np.where(np.arange(COUNT) == 5, 900.0, rng.uniform(2, 6, COUNT)),  # one wild value
        lambda rng: rng.choice([0.0, 1.0, 2.0, 3.0], COUNT),  # a grade
        lambda rng: rng.normal(0, 1, COUNT),  # on both sides of zero
    ],
)
def test_what_only_looks_like_two_units_passes(tmp_path: Path, values) -> None:
    table = Table()
    table.numbers("marker", values(table.rng))
    check(table.write(tmp_path))
