"""Pages, tables, charts and pictures made of predictions and their scores.

Scores are computed in `evaluation`; DICOM objects are in `reports/dicom`.
"""
