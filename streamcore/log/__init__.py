"""Everything that talks to Kafka, behind one port with two implementations: kafka and local."""
