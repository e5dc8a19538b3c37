"""The door for models: a file, folder, name or object becomes a Classifier; one file a kind of model."""
