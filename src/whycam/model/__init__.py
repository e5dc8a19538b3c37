"""Images to features and logits: backbones, the GAP classifier, its exported graph, and cutting any model."""
