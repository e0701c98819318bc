"""Runs as jobs of a cluster: profiles, batch scripts, snapshots of the source, and what looks after them. No torch."""
