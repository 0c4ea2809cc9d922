"""What `prognode cohort synth` can be told."""

import argparse
from pathlib import Path

from analysis.train.synth.outcomes import MODES
from analysis.train.synth.synth import SynthConfig

SYNTH_DESCRIPTION = """\
Make a synthetic cohort: chest CTs with a lung lesion and its contour (DICOM), a
clinical table, outcomes, and truth.json with every patient's oracle risk.
SYNTHETIC stands in every name and description; the same seed gives the same bytes.

modes:
  planted      lesion volume, heterogeneity and clinical values bear on the outcome
  null         nothing bears on the outcome: what a model finds here is chance
  volume-only  the lesion's volume alone bears on the outcome
  leak         as planted, and a predictor that copies the outcome: training must refuse it
  duplicates   as planted, and some patients stand in the table twice under another name
  site-shift   as planted, from two sites that differ in scanner and in baseline hazard
"""

SYNTH_EXAMPLES = """\
Example: prognode cohort synth 240 --out cohort/ --seed 1

more examples:
  prognode cohort synth 400 --out null/ --mode null --no-images
  prognode cohort synth 120 --out seg/ --roi seg --missing-images 0.1
"""


def add_synth_arguments(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the arguments and options; returns the same parser."""
    add = parser.add_argument
    add("count", type=int, help="number of patients")
    add("--out", type=Path, required=True, metavar="DIR", help="new folder")
    add("--mode", choices=MODES, default="planted", help="what the outcome knows, and the trap (default: planted)")
    add("--seed", type=int, default=SynthConfig.seed, help="default: %(default)s")
    add("--roi", choices=("rtstruct", "seg"), default="rtstruct", help="kind of contour (default: rtstruct)")
    add("--missing-images", type=float, default=0.0, metavar="SHARE", help="share without images, 0 to 1 (default: 0)")
    add("--background", type=Path, metavar="DIR", help="set the lesions into the real CTs found there, *_image.nrrd")
    add("--matrix", type=int, default=SynthConfig.matrix, help="rows and columns of the CT (default: %(default)s)")
    add("--slices", type=int, default=SynthConfig.slices, help="default: %(default)s")
    add("--slice-mm", type=float, default=SynthConfig.slice_mm, help="slice thickness (default: %(default)s)")
    add("--workers", type=int, default=2, help="processes (default: %(default)s)")
    add("--no-images", action="store_true", help="the table and the truth alone")
    return parser
