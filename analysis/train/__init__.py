"""From a cohort to a bundle; needs the extra `train`."""
