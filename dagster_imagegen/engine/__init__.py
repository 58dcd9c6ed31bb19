"""The engine: everything but Dagster."""
