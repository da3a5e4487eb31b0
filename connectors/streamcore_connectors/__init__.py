"""Connectors to other systems, one folder each. The engine imports none of them."""
