"""Reads prompt tables of any kind and turns their rows into requests."""
