"""Training of the shipped detectors; nothing of it runs in the gateway."""
