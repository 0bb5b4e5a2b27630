"""Files of TensorFlow: checkpoints read, SavedModels written."""
