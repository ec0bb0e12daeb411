"""Images of a dataset as flat arrays for training: built once, read by the loader in seeded batches.

Reading image files belongs in `imaging`, labels in `datasets`.
"""
