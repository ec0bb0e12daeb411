"""The service without HTTP or DICOM: decoding processes, batches on the network, what it counts."""
