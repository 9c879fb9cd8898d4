"""What happened, told outside: the journal as CloudEvents, their delivery, and signed checkpoints."""
