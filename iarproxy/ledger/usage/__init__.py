"""Uses: who was given what, in a database of their own that nothing else waits for."""
