"""What backbones transfer: probes and fine-tuning on other images, compared."""
