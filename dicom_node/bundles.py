"""The bundles of a node: its own, and those that rules name. Each is loaded once, and every byte of it checked."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from config.settings import Rule, Settings
from models.bundle import DEMO, Bundle, BundleError, is_unchanged, load


class Bundles:
    """What the stages work with. A work item's ticket names its bundle by digest; a rule, by its folder."""

    def __init__(
        self, own: Bundle, named: Mapping[Path, Bundle] | None = None, before: "Bundles | None" = None
    ) -> None:
        """`before`: those that these take the place of; what was planned with one of them can still be analysed."""
        self.own = own
        self.golden: dict[str, str] = {}  # by digest: how the golden case went, where it was run
        self._named = dict(named or {})
        self._former = before._all() if before else {}

    @classmethod
    def load(cls, settings: Settings, before: "Bundles | None" = None) -> "Bundles":
        """Read what the settings name. Raises BundleError, with the rule where it is one's."""
        own, named = load(settings.bundle or DEMO), dict[Path, Bundle]()
        for rule in settings.rules:
            if rule.bundle is not None and rule.bundle not in named:
                try:
                    named[rule.bundle] = load(rule.bundle)
                except BundleError as error:
                    raise BundleError(f"[[rules]] {rule.name!r}: {error}") from error
        return cls(own, named, before)

    def of(self, rule: Rule) -> Bundle:
        """The bundle of a rule; the node's own where the rule names none."""
        if not rule.name or rule.bundle is None:
            return self.own
        return self._named.get(rule.bundle) or self._former[rule.bundle]

    def get(self, digest: str) -> Bundle | None:
        """The bundle of that digest, where it is in use, or was before the last reload and is still as it was."""
        found = next((bundle for bundle in self if bundle.digest == digest), None)
        if found is None:
            former = next((bundle for bundle in self._former.values() if bundle.digest == digest), None)
            return former if former and is_unchanged(former) else None
        return found

    def _all(self) -> dict[Path, Bundle]:
        return {**self._former, self.own.folder: self.own, **self._named}

    def __iter__(self) -> Iterator[Bundle]:
        """Each once, the node's own first."""
        return iter({bundle.digest: bundle for bundle in (self.own, *self._named.values())}.values())
