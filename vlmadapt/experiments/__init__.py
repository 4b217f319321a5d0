"""Few-shot experiments: the protocol, one fit, features, stores and results."""
