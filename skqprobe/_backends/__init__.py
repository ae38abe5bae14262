"""Backends that embedders and generators share."""
