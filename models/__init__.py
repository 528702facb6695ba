"""What we know: records, the wire format, and scorers. Pure: no I/O and no clock."""
