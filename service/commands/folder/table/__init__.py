"""A row a photo: its columns, its formats, and opening a table where an earlier run stopped."""
