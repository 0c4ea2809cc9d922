"""Settings: frozen dataclasses, the commented default file and the generated JSON Schemas."""
