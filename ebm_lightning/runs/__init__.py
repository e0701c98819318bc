"""A run is a folder: identity, provenance, dependencies, checkpoints, loggers, preemption signals."""
