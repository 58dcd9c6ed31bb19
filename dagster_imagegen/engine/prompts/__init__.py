"""A prompt table, from anything tabular, turned into requests."""
