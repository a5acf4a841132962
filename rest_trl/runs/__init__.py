"""What stands around a training run: its processes, its checkpoints, its way to the Hub."""
