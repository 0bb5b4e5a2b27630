"""One generation: each of its stages, and what they are made of."""
