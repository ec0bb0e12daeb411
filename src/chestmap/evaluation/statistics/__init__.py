"""Statistics of scores by patient: areas, intervals, resampling, calibration, operating points.

Knows nothing of maps or boxes; those belong in `evaluation/maps`.
"""
