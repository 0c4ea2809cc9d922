"""Structure-aware fuzzing of everything that comes from outside: `python -m tests.fuzz`, `make fuzz`."""
