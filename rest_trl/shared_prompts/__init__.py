"""The tokens that rows of a micro-batch share are computed once."""
