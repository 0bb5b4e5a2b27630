"""The cache of prepared images: listed, checked, decoded once, read often."""
