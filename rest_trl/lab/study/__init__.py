"""Studies: arms and seeds of one recipe, paired, in parallel, with intervals."""
