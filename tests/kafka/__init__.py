"""Real brokers for tests, benchmarks, the demo and chaos: `broker` finds or starts them, `proxy` stands in front."""
