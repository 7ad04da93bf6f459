"""What surrounds a trainer in the pod: launcher, entry point, endpoint and outcome."""
