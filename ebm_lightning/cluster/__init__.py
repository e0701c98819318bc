"""Runs as jobs of a cluster: profiles, batch scripts, snapshots of the source, submitted jobs. Imports no torch."""
