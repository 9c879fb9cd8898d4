"""A person's acts on names: one tag's pin, a whole lock, a retention plan."""
