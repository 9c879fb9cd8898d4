"""Recall: what contains a denied digest, who got it, and that nobody gets it any more."""
