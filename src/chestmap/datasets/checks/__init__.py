"""Checks of a dataset: counts, missing and unreadable files, repeated images, leaks, as tables.

Readers of datasets belong in `datasets`.
"""
