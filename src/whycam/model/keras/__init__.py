"""Keras 3 files and old .h5 models, run by torch through Keras's own torch backend; TensorFlow is not needed."""
