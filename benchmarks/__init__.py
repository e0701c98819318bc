"""Benchmarks of this library and of its alternatives, interleaved in one run."""
