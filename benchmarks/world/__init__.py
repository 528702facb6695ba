"""A small simulated CI world: seeded pipelines on four platforms, the webhooks they send, and the truth about them."""
