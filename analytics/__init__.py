"""What we conclude: signatures, detectors, policy and the shard. Pure: no I/O and no clock."""
