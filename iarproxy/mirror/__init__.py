"""The use cases: resolve a tag, fetch a blob, watch drift, warm the cache, explain a name.

Rule 1: what we hold is served without asking anybody; upstream's failure never fails it.
Rule 2: bytes before names, names before answers: manifest durable, then pin durable, then the first byte.
Rule 3: a pin is built only from bytes hashed here; accusations of drift too.
"""
