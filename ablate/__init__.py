"""ablate: which parts of a small image generator earn their place?"""

import os

__version__ = "0.1.0"

# ONNX Runtime reports every process to its makers over the network, unless it is told not to before it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
