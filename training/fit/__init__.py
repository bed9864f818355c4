"""One training run: its loop, losses, optimiser, journal and processes."""
