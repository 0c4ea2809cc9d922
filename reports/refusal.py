"""Why a study was not scored, as the reports need it: with or without a job behind it."""

from dataclasses import dataclass

from analysis.contract import BundleIdentity, JobResult, QualityFlag, Reason


@dataclass(frozen=True)
class Refusal:
    """A NOT_SCORED outcome.

    Attributes
    ----------
    reason : Reason
    detail : str
        Figures that help; never a name or an identifier.
    bundle : BundleIdentity or None
        The bundle that would have scored; None where none was looked at.
    quality : tuple of QualityFlag
    """

    reason: Reason
    detail: str = ""
    bundle: BundleIdentity | None = None
    quality: tuple[QualityFlag, ...] = ()


def refusal_of(result: JobResult) -> Refusal:
    """The refusal inside a NOT_SCORED job result.

    Raises
    ------
    ValueError
        Where the result has no reason: then it was scored.
    """
    if result.reason is None:
        raise ValueError("the job result has no reason: it is scored; use build.scored")
    return Refusal(result.reason, result.reason_detail, result.bundle, result.quality)
