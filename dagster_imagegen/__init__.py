"""Prompt tables to images in Dagster, with every request on record."""
