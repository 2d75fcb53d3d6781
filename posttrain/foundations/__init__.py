"""Pillar 0: the parts a language model is made of, each from scratch."""
