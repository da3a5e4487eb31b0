"""Stream processing on Kafka, exactly once, in plain Python."""
