"""Pillar 2: data that a model helps to make, and the filters that it must pass."""
