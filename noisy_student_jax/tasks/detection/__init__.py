"""Object detection: boxes as targets, on detectors of `models.fcos`."""
