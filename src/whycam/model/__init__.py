"""Images to features and logits: backbones, the GAP classifier, feature store, training, and cutting any model."""
