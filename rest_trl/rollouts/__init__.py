"""How the completions of a rollout are sampled: branched after their reasoning, and with wasted groups replaced."""
