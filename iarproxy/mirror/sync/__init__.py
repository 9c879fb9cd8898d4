"""Bringing a set here: what its lines name, what is attached to that, and a record of what it came to."""
