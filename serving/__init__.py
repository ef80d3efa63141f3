"""Models behind the gateway: fraud scoring, embeddings and embedded language models."""
