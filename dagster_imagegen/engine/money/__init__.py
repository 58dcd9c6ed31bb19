"""The cost of a request by a dated price list, and its worst case."""
