"""When the planner turns while objects come."""

from dicom_node.schedule import NEAR_SECONDS, PACE_SECONDS, Lull

STEP = 1 / 64  # between looks, of a length without rounding
STEADY = 13  # looks that the pace has
assert (STEADY - 1) * STEP < PACE_SECONDS <= STEADY * STEP


def turns(newest: list[int]) -> list[int]:
    """The looks that became turns; `newest` arrival at each look."""
    lull = Lull()
    return [look for look, number in enumerate(newest) if lull.is_due(number, 1000 + look * STEP)]


def test_what_came_last_is_planned_one_look_later_and_once() -> None:
    assert turns([5, 5, 5, 6, *[6] * STEADY]) == [0, 4]


def test_while_objects_come_the_planner_keeps_its_pace() -> None:
    assert turns([*range(3 * STEADY)]) == [0, STEADY, 2 * STEADY]


def test_where_nothing_comes_the_planner_keeps_its_pace_for_what_waits() -> None:
    assert turns([0] * 3 * STEADY) == [0, STEADY, 2 * STEADY]


def test_a_clock_that_goes_back_stops_nothing() -> None:
    lull = Lull()
    assert lull.is_due(1, 1000.0)
    assert lull.is_due(2, 10.0)


def test_looks_are_frequent_only_near_what_has_come() -> None:
    lull = Lull()
    assert not lull.is_near(1000.0)
    for newest, now in ((7, 1000.0), (7, 1000.5), (8, 1000.75)):
        lull.is_due(newest, now)
        assert lull.is_near(now)
    lull.is_due(8, 1000.75 + NEAR_SECONDS)
    assert not lull.is_near(1000.75 + NEAR_SECONDS)
    assert not lull.is_near(10.0)  # a clock that goes back
