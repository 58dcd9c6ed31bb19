"""One request to an endpoint: sent, and its answer read as an image or a classified failure."""
