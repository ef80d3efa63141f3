"""The routes of /admin, and who may come in."""
