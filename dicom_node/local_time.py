"""Times as people read them, on pages and in commands: in the zone of the settings, as the reports have them. Leaf."""

import time
from datetime import UTC, date, datetime, tzinfo
from zoneinfo import ZoneInfo

_zone: tzinfo | None = None  # of the process: the host's


def go_by(time_zone: str) -> None:
    """From now on, times are told in this zone (IANA name); "" is the host's."""
    global _zone  # noqa: PLW0603 - one clock for all that a process shows, as TZ would be
    _zone = ZoneInfo(time_zone) if time_zone else None


def local(seconds: float) -> datetime:
    """A time of the store in that zone."""
    return datetime.fromtimestamp(seconds, UTC).astimezone(_zone)


def today() -> date:
    """The day of the calendar in that zone: a container's clock is in UTC, whatever the hospital's says."""
    return local(time.time()).date()


def stated(moment: datetime) -> datetime:
    """A time that names no zone is of that one. Raises OverflowError, ValueError or OSError far from now."""
    if moment.tzinfo is not None:
        return moment
    return moment.replace(tzinfo=_zone) if _zone is not None else moment.astimezone()


def midnight(day: date) -> float:
    """When a day begins in that zone, as a time of the store. Raises as `stated`.

    >>> go_by("Asia/Tokyo"); midnight(date(2026, 3, 2)) == midnight(date(2026, 3, 1)) + 86_400, local(midnight(
    ...     date(2026, 3, 2))).isoformat(); go_by("")
    (True, '2026-03-02T00:00:00+09:00')
    """
    return stated(datetime(day.year, day.month, day.day)).timestamp()  # noqa: DTZ001


def zone_name(seconds: float) -> str:
    """The zone at that time, for people.

    >>> go_by("Europe/Berlin"); zone_name(1_750_000_000), local(1_750_000_000).isoformat(); go_by("")
    ('CEST (Europe/Berlin)', '2025-06-15T17:06:40+02:00')
    """
    short = local(seconds).tzname() or "local time"
    return f"{short} ({_zone.key})" if isinstance(_zone, ZoneInfo) and _zone.key != short else short
