"""The lab: what looks at a training, compares and evaluates it; the method itself needs none of it."""
