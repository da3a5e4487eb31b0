"""Where the floors below meet: a worker, its tasks, commit and takeover."""
