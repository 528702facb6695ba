"""The records every room speaks in."""
