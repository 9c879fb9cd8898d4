"""Promotion: what a digest must show before an environment takes it, and the act."""
