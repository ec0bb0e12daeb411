"""Network parts that two papers share: backbones, pooling, attention, losses, boxes from maps.

A part that one paper uses stays in that paper's file in `methods`.
"""
