"""Pillar 1: from a base model to one that follows, prefers and reasons."""
