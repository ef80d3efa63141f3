"""What gives an answer a Score: deterministic checks and language-model judges."""
