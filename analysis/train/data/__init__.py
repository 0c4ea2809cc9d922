"""A cohort: its file, its table, its image features, and what is refused before training."""
