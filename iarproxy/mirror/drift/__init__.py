"""The drift watch: what upstream offers now for what is pinned, when it is asked, and what is kept as evidence."""
