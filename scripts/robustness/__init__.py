"""Hard cases, each run through vlmadapt and the peers that have a function for it: ``docs/robustness.md``."""
