"""Grad-CAM and the graph contract in torch: the reference that the exported graph must match."""
