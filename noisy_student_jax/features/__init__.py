"""Features of frozen backbones as a source, and heads that are solved on them."""
