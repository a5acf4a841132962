"""BFCL by its official packages, each in an isolated environment."""
