"""A stage compiled to closures over batches: one file a family of steps."""
