"""How good predictions are: discrimination, calibration, separation, in cross-validation and elsewhere."""
