"""The only folder that knows NeMo Guardrails. One rail is one flow of a configuration, run as a check; NeMo never generates here."""
