"""The bundle format: manifest, digests, model card; and the demo bundle."""
