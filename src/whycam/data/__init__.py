"""Files to images: decoding, class folders, checks, batches, and the generated garden."""
