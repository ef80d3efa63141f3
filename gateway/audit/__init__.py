"""`callgate leak-audit`: unmistakable values sent through a real gateway, and looked for wherever they must not be."""
