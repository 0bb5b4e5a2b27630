"""The cache of prepared images, which are checked and decoded once."""
