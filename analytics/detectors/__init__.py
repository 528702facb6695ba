"""One file, one class, nothing to register. The contract is detector.py."""
