"""Evaluation of checkpoints on API-Bank, BFCL and the tiny world, with intervals."""
