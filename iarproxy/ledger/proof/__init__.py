"""What lets others check the journal without trusting this machine: keys, checkpoints, proofs."""
