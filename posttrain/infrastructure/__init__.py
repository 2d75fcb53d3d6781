"""Pillar 3: train and serve within the memory and the time that you have."""
