"""Candidates of prompts: layouts, labels, validation, sums inside prompts, choice."""
