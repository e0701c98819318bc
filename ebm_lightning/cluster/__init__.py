"""Runs as jobs of a cluster: profiles, batch scripts, snapshots of the source, and what looks after them. No torch."""

from ebm_lightning.cluster.command import main
from ebm_lightning.cluster.early import makes_room

__all__ = ["main", "makes_room"]
