"""What training found, before it is written."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from analysis.train.data.cohort import Cohort
from analysis.train.model import resample
from analysis.train.model.crossval import Nested
from analysis.train.model.design import Block
from analysis.train.model.fit import Fitted
from analysis.train.model.null import Null
from analysis.train.model.predictions import OutOfFold
from models.bundle import combinations_of
from models.manifest import Outliers


@dataclass(frozen=True)
class Trained:
    """A judged, fitted and resampled model with the cohort it comes from.

    `blocks` are the modalities, `baselines` what they are judged beside; `sites` holds predictions for each hospital
    by a model of all the others, `encoder` the file that made the deep features.
    """

    cohort: Cohort
    blocks: tuple[Block, ...]
    baselines: tuple[Block, ...]
    fitted: Fitted
    refits: resample.Refits
    nested: Nested
    null: Null
    outliers: tuple[Outliers, ...]
    sites: Mapping[str, OutOfFold] = field(default_factory=dict)
    encoder: Path | None = None

    @property
    def repeats(self) -> list[OutOfFold]:
        """Out-of-fold predictions, one for each repeat."""
        return self.nested.repeats

    @property
    def subsets(self) -> list[tuple[Any, ...]]:
        """Every combination of the modalities, singles first."""
        return combinations_of(tuple(block.modality for block in self.blocks))
