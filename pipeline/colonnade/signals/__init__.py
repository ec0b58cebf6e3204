"""Signals that stop a run."""
