"""Files that are never half written: addresses, scratch copies, results folders, a bounded cache.

Knows nothing of images, models or predictions.
"""
