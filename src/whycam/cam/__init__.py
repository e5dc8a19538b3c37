"""Features to maps: one decorated function a method, grouped by what it needs."""
