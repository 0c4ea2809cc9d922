"""The encoder of the deep features: patches, network, pretraining, probes. torch lives here."""
