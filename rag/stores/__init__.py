"""Vector stores behind one protocol, a vendor a file."""
