"""What runs before anything is installed: finding a Python, and building the environments from the lock files."""
