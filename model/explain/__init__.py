"""Grad-CAM and the graph contract in torch: what a network sees, and what the exported graph must answer."""
