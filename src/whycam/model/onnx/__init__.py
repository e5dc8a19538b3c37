"""A classifier as an ONNX graph that explains itself: export, run, quantise."""
