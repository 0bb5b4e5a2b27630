"""Types, protocols and utilities that the rest of the package builds on."""
