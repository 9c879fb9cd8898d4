"""The air gap: bundles made, verified and applied, and OCI layouts of other tools in and out.

Rule: it reads and writes store and ledger, and nothing in here can import `upstream`; `lint-imports` holds it so.
"""
