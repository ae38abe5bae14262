"""Objectives of a probe: the mean loss over prompts plus an L2 penalty."""
