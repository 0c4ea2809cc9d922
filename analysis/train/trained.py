"""What training found, before it is written."""

from dataclasses import dataclass
from typing import Any

from analysis.train import resample
from analysis.train.cohort import Cohort
from analysis.train.design import Block
from analysis.train.fit import Fitted
from analysis.train.predictions import OutOfFold
from models.bundle import combinations_of


@dataclass(frozen=True)
class Trained:
    """A judged, fitted and resampled model with the cohort it comes from."""

    cohort: Cohort
    blocks: tuple[Block, ...]
    fitted: Fitted
    refits: resample.Refits
    repeats: list[OutOfFold]

    @property
    def subsets(self) -> list[tuple[Any, ...]]:
        """Every combination of the modalities, singles first."""
        return combinations_of(tuple(block.modality for block in self.blocks))
