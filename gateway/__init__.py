"""The OpenAI-compatible front door: the only package that knows the others."""
