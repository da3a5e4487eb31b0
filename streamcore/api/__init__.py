"""The public API: what a user writes down becomes nodes; nothing runs here."""
