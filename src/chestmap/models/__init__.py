"""The model folder and what is made of it: card, calibration, checks, export, engines, predictions in memory.

Training belongs in `training`, the `predict` job in `prediction`.
"""
