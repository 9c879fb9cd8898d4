"""The HTTP faces: registry, admin, probes; sending files; the worker processes.

Rule 1: one parser reads the raw target, one place spells heads, one place writes errors, one place sends bytes.
Rule 2: nothing here decides what a tag means: the mirror does; this room only speaks HTTP about it.
Rule 3: whatever a client does, it costs a bounded amount: every wait has a deadline, every buffer a bound.
"""
