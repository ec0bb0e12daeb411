"""The DICOM door: radiographs come in by C-STORE or are pulled, results go back to the archive.

`receiver.py` takes images, `pull.py` asks for them, `delivery.py` sends results, `node.py` runs all of them over a service.
Nothing of a patient is in a log or a file's name: an image is known by a hash.
"""
