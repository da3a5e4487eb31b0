"""A task's state: encoded keys, rows and journal frames, and the stores that keep them."""
