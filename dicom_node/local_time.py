"""Times as people read them, on pages and in commands: in the zone of the settings, as the reports have them. Leaf."""

from datetime import UTC, datetime, tzinfo
from zoneinfo import ZoneInfo

_zone: tzinfo | None = None  # of the process: the host's


def go_by(time_zone: str) -> None:
    """From now on, times are told in this zone (IANA name); "" is the host's."""
    global _zone  # noqa: PLW0603 - one clock for all that a process shows, as TZ would be
    _zone = ZoneInfo(time_zone) if time_zone else None


def local(seconds: float) -> datetime:
    """A time of the store in that zone."""
    return datetime.fromtimestamp(seconds, UTC).astimezone(_zone)


def zone_name(seconds: float) -> str:
    """The zone at that time, for people.

    >>> go_by("Europe/Berlin"); zone_name(1_750_000_000), local(1_750_000_000).isoformat(); go_by("")
    ('CEST (Europe/Berlin)', '2025-06-15T17:06:40+02:00')
    """
    short = local(seconds).tzname() or "local time"
    return f"{short} ({_zone.key})" if isinstance(_zone, ZoneInfo) and _zone.key != short else short
