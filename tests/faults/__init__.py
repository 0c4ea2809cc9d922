"""The fault matrix: what breaks in a hospital, done to a real node at every point; `python -m tests.faults`."""
