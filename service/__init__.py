"""The inference service: images in; class, attention heatmap and Grad-CAM overlay out. Never imports torch."""

import os

# ONNX Runtime reads this when it is first imported; `disable_telemetry_events()` afterwards comes too late: by then
# it has an uploading thread, and has written an identifier of the machine and a database of events to the home folder.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
