"""The HTTP service: predictions, a worklist, reviews, and the store that keeps them. Nothing heavy is imported here."""
