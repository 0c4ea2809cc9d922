"""Pure functions from a result and its evidence to DICOM objects and pages."""
