"""From sampled ids to regions, and from regions to coefficients: the heart of the library."""
