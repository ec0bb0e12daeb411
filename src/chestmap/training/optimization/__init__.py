"""Trains one step: loop, schedule, loss balance, validation, checkpoints, log.

What a run is made of belongs in `training`.
"""
