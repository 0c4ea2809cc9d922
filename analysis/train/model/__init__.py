"""What learns: columns, learners, fusion and recalibration, refits, cross-validation, the null."""
