"""Where outputs wait until their slice stands: columns a topic, packed frames a shuffle partition."""
