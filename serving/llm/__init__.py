"""Language models that we run ourselves."""
