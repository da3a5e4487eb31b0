"""Wire formats: lists of values to lists of bytes and back."""
