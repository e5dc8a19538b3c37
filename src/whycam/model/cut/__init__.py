"""Any module cut at a layer: features(images) and tail(features)."""
