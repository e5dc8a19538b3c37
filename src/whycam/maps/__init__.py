"""Maps -> heat, boxes, refined maps."""
