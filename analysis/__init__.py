"""The job: pixels and clinical values in, features and risks out; runs in a sandbox."""
