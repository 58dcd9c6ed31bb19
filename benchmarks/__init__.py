"""Measures this project beside other ways to make images; `python -m benchmarks` runs it."""
