"""The version of the package, written here alone; every model folder, table and DICOM object keeps it."""

__version__ = "0.1.0"
