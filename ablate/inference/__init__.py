"""Trained models elsewhere: ONNX, number formats (int8 and others), export, latency."""
