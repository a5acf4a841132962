"""Commands that combine several parts of the package: the one that does the work, and those that show it or train."""
