"""The engine: everything but Dagster. `engine.py` wires its parts together."""
