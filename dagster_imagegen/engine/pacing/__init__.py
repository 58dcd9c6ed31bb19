"""How fast to send, learnt from what an endpoint announces and refuses."""
