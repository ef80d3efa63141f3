"""Is this version better than that one? Knows a URL, and nothing of what answers behind it."""
