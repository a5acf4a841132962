"""What surrounds a training run: its recipe and inputs, its processes and checkpoints, and its push to the Hub."""
