"""Is this transaction fraud? Features, model, decision, log."""
