"""Synthetic cohorts: patients with a known truth, chests that look like chests, DICOM files."""
