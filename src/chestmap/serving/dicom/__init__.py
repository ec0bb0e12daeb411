"""The DICOM door: radiographs come in by C-STORE or are pulled, results go back to the archive.

receiver.py    C-ECHO and C-STORE; listening.py limits of a connection; pull.py QIDO and WADO
delivery.py    results to the archive; destinations.py C-STORE and STOW
node.py        all of them together, over a service of `serving.engine`

Nothing of a patient is in a log or a file's name: an image is known by a hash.
"""
