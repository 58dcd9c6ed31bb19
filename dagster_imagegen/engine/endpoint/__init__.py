"""One request to an endpoint: sent, read, and told as an image or a failure of a known kind."""
