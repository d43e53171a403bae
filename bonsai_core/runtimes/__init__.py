"""Checkpoints in the formats of runtimes, verified and timed there."""
