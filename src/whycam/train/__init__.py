"""Photos -> a classifier: features once, the loop, fine-tuning, regions."""
