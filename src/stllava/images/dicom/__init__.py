"""DICOM objects as 8-bit RGB: header, pixels, gray values, and the patient as a salted hash.

pydicom is imported where a file is read. Nothing of a header travels: not into records, names of
files, or messages, which name the path, standard keywords and registered names only.
"""
