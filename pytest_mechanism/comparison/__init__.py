"""What changed between two checkpoints: every head, MLP and layer compared, and the spec that says so."""
