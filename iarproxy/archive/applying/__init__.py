"""Applying a bundle: bytes from volumes into the store, then all names in one act."""
