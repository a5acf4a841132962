"""A vLLM server in training: its configuration, the weights it gets, and its restarts."""

INSTALL_VLLM = "pip install 'rest-trl[vllm]', in a clone pip install '.[vllm]'"
