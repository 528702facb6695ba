"""Where we touch the world: platforms, the receiver, Redis, PostgreSQL, metrics."""
