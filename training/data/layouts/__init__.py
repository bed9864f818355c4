"""Readers of data sets, one for each layout on the disk. They read lists; no image is opened."""
