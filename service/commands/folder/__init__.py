"""Many photos at once: folders, globs and lists of names in, a table or a tree of pictures out."""
