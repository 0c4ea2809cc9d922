"""Ways to run a job: one small module each, the same call (`contract.Executor`)."""
