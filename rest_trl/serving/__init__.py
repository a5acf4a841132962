"""A vLLM server in training: its configuration, the weights it gets, and its restarts."""
