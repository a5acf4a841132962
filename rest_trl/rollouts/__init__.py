"""How the completions of a rollout are sampled: branched behind their reasoning, and wasted groups anew."""
