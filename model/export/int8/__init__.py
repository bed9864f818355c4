"""Static int8 of the convolutional part: ranges and weights from training photos, no training."""
