"""What a run shows to people: marked completions, pages, curves, model cards."""
