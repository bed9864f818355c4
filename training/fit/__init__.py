"""One training run, and its folds: loop, losses, optimiser, journal and processes."""
