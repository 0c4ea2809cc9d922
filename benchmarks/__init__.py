"""Measurements, side by side and printed as tables; never run as tests."""
