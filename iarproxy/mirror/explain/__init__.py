"""Where a name stands and why, in words and in JSON; nothing here changes anything."""
