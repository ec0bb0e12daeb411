"""Maps against boxes: the space they are compared in, overlaps, thresholds, passes over all maps.

Scores are made of them in `evaluation`.
"""
