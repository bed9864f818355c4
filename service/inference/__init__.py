"""From an image's bytes to a model's answer; no HTTP in here."""
