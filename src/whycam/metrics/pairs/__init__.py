"""Two models on the same photos: who wins by how much, where they differ, and what of it is noise of seeds."""
