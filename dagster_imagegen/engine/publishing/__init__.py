"""Images under readable names: what they are called, and what of them has been published."""
