"""Version of the package, for what imports it before the rest."""

__version__ = "0.1.0"
