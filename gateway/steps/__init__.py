"""Guardrails, retrieval and fraud as steps of a request: only this folder translates between the gateway and the other packages."""
