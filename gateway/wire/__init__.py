"""The OpenAI wire: request bodies in, response bodies and server-sent events out."""
