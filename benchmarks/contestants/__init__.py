"""What is measured: each file is a program of its own, run in its own environment."""
