"""The HTTP service: routes, schemas, access, limits, and the pictures it serves.

The review page's files are in `serving/page`.
"""
