"""The service: receives, plans, runs the job, composes the objects and delivers them."""
