"""One generation: a module for each of its stages, and their shared parts."""
