"""From a network to one .onnx file with the gradient inside: traced, tidied, compared, written."""
