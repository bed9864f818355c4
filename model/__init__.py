"""The ground both floors stand on: the network, its Grad-CAM, the ONNX file and its manifest.

Importing this package loads nothing: the service reads `model.manifest` alone and never sees torch.
"""
