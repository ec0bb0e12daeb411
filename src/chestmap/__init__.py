"""chestmap: which findings a chest X-ray shows, and where."""

__version__ = "0.1.0"
