"""Input pipelines: from sources to batches on the devices."""
