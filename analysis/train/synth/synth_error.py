"""The one error of the generator of synthetic cohorts."""


class SynthError(Exception):
    """The cohort cannot be made; the text says what to change."""
