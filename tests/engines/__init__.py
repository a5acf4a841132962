"""What tests run against: a vLLM server, weight synchronisation that needs no GPU, a Hub, forks and ranks."""
