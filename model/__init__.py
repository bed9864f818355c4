"""What service and training share: the network, its Grad-CAM, the ONNX file and its manifest.

Importing this package loads nothing: the service reads `model.contract` alone and never sees torch.
"""

import os

# ONNX Runtime reads this when it is first imported: it would write an identifier of the machine to the home folder.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
