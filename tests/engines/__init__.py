"""Real engines for tests: a vLLM server, and weight synchronisation that needs no GPU."""
