"""Boxes and labels in the formats of other programs: COCO, Label Studio, CVAT.

Datasets in the layout of their publisher belong in `datasets`.
"""
