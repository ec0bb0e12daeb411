"""From bytes to a grey radiograph on its canvas: PNG, JPEG, DICOM, grayscale, limits, decoding processes.

Knows nothing of datasets, labels or networks.
"""
