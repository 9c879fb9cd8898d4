"""OCI layouts in and out, for the air gap. Empty until the issue that builds it; the room and its import rule stand.

Rule: nothing in here can import `upstream`; `lint-imports` holds it so.
"""
