"""What the commands of `fieldmark-train` do beyond a run: evaluate, compare, export, summarise."""
