"""Finding, reading and checking the scans of the source dataset; import of DICOM series."""
