"""TensorFlow's files: reads checkpoints, writes SavedModels."""
