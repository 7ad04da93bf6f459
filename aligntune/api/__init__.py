"""What the operator, the pod and the command line agree on: the resource and every shared name."""
