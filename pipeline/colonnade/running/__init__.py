"""A run: from a job to a finished store."""
