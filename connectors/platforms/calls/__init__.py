"""How each platform is asked to act, in a file of its own beside the platform's: what it takes and what it answers."""
