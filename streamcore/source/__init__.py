"""Runs of raw records to batches of values."""
