"""Presets: scores exactly as a reference computes them.

Scores of our own protocol belong in `evaluation`.
"""
