"""Deduplication: which ids a task has seen within the time it keeps them."""
