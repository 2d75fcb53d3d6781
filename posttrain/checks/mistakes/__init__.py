"""Known wrong answers of each exercise, with the hint that each earns."""
