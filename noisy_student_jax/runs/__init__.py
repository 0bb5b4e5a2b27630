"""A run: its directory, its stages and its ledger."""
