"""Scores of predictions against the truth: ranking, localization, floors, presets, intervals, published tables.

Pages and pictures belong in `reports`.
"""
