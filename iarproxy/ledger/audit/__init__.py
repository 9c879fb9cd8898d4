"""The audit: the journal, its file, its checkpoints and what left here, against each other."""
