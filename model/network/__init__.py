"""The classifier in torch: backbone, attention and head."""
