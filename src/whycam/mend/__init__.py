"""What people say of photos and findings, kept in a journal, and models that were trained by it."""
