"""Sentence embeddings by a local MiniLM."""
