"""Metrics: named ones, and expressions."""
