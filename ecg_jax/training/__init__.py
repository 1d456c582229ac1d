"""Training: jobs, the step, the loop."""
