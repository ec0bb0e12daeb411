"""The predictions folder on disk: its parts, their maps, scores and inputs.

Making predictions belongs in `prediction`, scoring them in `evaluation`.
"""
