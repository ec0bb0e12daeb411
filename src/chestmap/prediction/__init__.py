"""The `predict` job: inputs, decoding, parts of a predictions folder, shards, Ray, output formats.

The folder's format belongs in `predictions`, the network in `models`.
"""
