"""What text means what: the catalogue of signatures, as data."""
