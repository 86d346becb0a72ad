"""Training: the one loop, what it starts from, and what it remembers."""
