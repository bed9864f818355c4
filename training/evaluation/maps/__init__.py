"""Are the maps right? Where things are in a photo, how maps lie on them, what the network loses without them."""
