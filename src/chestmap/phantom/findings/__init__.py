"""The fourteen findings of the phantom: how each changes the anatomy and is drawn.

Healthy anatomy belongs in `phantom`.
"""
