"""Which studies a reader sees, and in which order: filters, pages, and the studies that teach most.

What is kept of a study is in the room above.
"""
