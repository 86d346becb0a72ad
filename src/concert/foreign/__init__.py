"""Checkpoints of other projects, and from there to a run folder of ours."""
