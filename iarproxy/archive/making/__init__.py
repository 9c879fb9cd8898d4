"""Making a bundle: what it has to carry, its volumes, its signatures."""
