"""What clients get: tags, manifests, blobs and lists, or why they are refused.

Rule: nothing in here knows of sets, promotion, the drift watch or explanations; those build on it.
"""
