"""What the worklist shows of a scored result without opening a file: JSON in `work_item.summary`."""

from pydantic import BaseModel, ConfigDict

from analysis.contract import Endpoint, EndpointGroup, JobResult, Modality, Outcome, RiskGroup, RiskScore, Severity

OUTSIDE_RANGE = "OUTSIDE_DEVELOPMENT_RANGE"  # analysis.score_flags


class Summary(BaseModel):
    """Groups and scores of a scored result. `group` is the one that stands for the study: OS, else the first."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    group: RiskGroup | None
    groups: tuple[EndpointGroup, ...]
    scores: tuple[RiskScore, ...]
    modalities: tuple[Modality, ...]  # of the sub-model that spoke
    missing: tuple[Modality, ...]
    warnings: int  # quality flags that are warnings
    synthetic: bool
    outside_range: bool = False  # a value lies outside the range of the bundle's development cohort


def summary_of(result: JobResult) -> Summary | None:
    """The summary of a result; None where there is no score."""
    if result.outcome is not Outcome.SCORED:
        return None
    by_endpoint = {group.endpoint: group.group for group in result.groups}
    first = next(iter(by_endpoint.values()), None)
    return Summary(
        group=by_endpoint.get(Endpoint.OS, first),
        groups=result.groups,
        scores=result.scores,
        modalities=result.sub_model.modalities if result.sub_model else (),
        missing=result.sub_model.missing if result.sub_model else (),
        warnings=sum(flag.severity is Severity.WARNING for flag in result.quality),
        synthetic=result.bundle.synthetic,
        outside_range=any(flag.code == OUTSIDE_RANGE for flag in result.quality),
    )
