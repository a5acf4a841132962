"""Evaluation of checkpoints on API-Bank, BFCL and the embedded tiny world, with confidence intervals."""
