"""Types, protocols and tools that every other room stands on."""
