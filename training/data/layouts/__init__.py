"""The data sets as they lie on the disk, a reader for each layout: lists only, no image is opened."""
