"""The inference service: images in; class, attention heatmap and Grad-CAM overlay out. Never imports torch."""
