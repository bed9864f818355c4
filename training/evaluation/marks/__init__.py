"""Are the field marks right? Whether a mark is seen, where it is read, and what the network loses without it."""
