"""Notebooks, and what they need: nothing else imports them. They alone in analytics read files."""
