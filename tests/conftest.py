"""Hypothesis without a deadline: an example may be slow because the machine is busy, and that is no finding."""

from hypothesis import settings

settings.register_profile("prognode", deadline=None)
settings.load_profile("prognode")
