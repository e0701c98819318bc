"""Named measurements, run by `ebm test`."""
