"""Question in, cited passages out."""
