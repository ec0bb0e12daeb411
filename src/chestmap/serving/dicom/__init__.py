"""The DICOM node: radiographs come in by C-STORE or are pulled, results go back to the archive.

settings.py    how much of everything it takes
queue.py       what was acknowledged, in SQLite; spool.py the files beside it
receiver.py    C-ECHO and C-STORE; listening.py limits of a connection; pull.py QIDO and WADO
predicting.py  from image to result files
delivery.py    from result files to the archive; destinations.py C-STORE and STOW
node.py        all of them together

Nothing of a patient is in a log, a file's name or the queue: an image is known by a keyed hash of its SOP Instance UID.
"""
