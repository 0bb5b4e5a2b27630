"""A run: its directory, its stages, and the ledger that it keeps."""
