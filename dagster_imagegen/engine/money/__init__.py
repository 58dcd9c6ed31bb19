"""What a request costs by a dated price list, and the most that it can cost."""
