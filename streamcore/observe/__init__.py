"""What a running job tells: metrics and log lines."""
