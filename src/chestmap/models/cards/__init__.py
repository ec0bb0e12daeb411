"""Cards of models as text: for a model folder, an export folder and a hub.

The figures in them are measured in `models`.
"""
