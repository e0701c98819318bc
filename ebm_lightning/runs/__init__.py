"""Run folders: identity, provenance, dependencies, checkpoints, loggers, preemption signals."""
