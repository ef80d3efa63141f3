"""Text in, Verdict out: personal data, rails and policies. Knows nothing of HTTP."""
