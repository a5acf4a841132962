"""Checks of the vLLM server that TRL's server mode needs, made before the model is loaded and after a restart."""

from typing import Any

from accelerate import PartialState
from accelerate.logging import get_logger
from accelerate.utils import broadcast_object_list
from transformers import AutoConfig, PretrainedConfig
from trl import GRPOConfig

from .client import ServerClient, server_url
from .command import serve_command


logger = get_logger(__name__)

_START_TIMEOUT = 30.0  # seconds
# What must be equal for the weights of one model to fit another.
_SIZES = (
    "model_type",
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
)


def start_command(args: GRPOConfig, name: str) -> str:
    """The shell command that starts the server of a training run."""
    return serve_command(name, training=True, port=None if args.vllm_server_base_url else args.vllm_server_port)


def check_config(client: ServerClient, args: GRPOConfig, name: str, config: PretrainedConfig) -> None:
    """Check that a running server can serve the policy."""
    command, url, server = start_command(args, name), client.url, client.config()
    if server is None:
        raise ValueError(
            f"the vLLM server at {url} has no development endpoints, through which the weights are sent: restart it "
            f"with VLLM_SERVER_DEV_MODE=1: {command}"
        )
    if server["weight_transfer_config"] is None:
        raise ValueError(
            f"the vLLM server at {url} cannot take weights: restart it with --weight-transfer-config: {command}"
        )
    length = server["model_config"]["max_model_len"]
    if length <= args.max_completion_length:
        raise ValueError(
            f"the vLLM server at {url} runs with --max-model-len {length}, which leaves no room for a prompt before "
            f"max_completion_length={args.max_completion_length} tokens: restart it with at least the longest prompt "
            f"plus {args.max_completion_length}, or without --max-model-len for the model's own maximum: {command}"
        )
    if not server["cache_config"]["enable_prefix_caching"]:
        logger.warning(
            f"the vLLM server at {url} computes a prompt again for each of its completions: restart it without "
            "--no-enable-prefix-caching"
        )
    served = server["model_config"]["model"]
    if served == name:
        return
    try:
        served_config = AutoConfig.from_pretrained(served, trust_remote_code=args.trust_remote_code)
    except (OSError, ValueError):
        logger.warning(
            f"the vLLM server at {url} serves {served!r} and the policy is {name!r}; {served!r} cannot be read here, "
            "so it is not checked that they are the same model"
        )
        return
    policy, other = (c.get_text_config().to_dict() for c in (config, served_config))
    differences = [f"{k} {other.get(k)}, not {policy.get(k)}" for k in _SIZES if other.get(k) != policy.get(k)]
    if differences:
        raise ValueError(
            f"the vLLM server at {url} serves another model, {served!r}, than the policy {name!r} "
            f"({'; '.join(differences)}): restart it with the policy: {command}"
        )


def check_prefix_caching(engine: Any) -> None:
    """Warn if an [`~vllm.LLM`] in the process of the trainer does not keep the prompts that it has computed."""
    if not engine.llm_engine.vllm_config.cache_config.enable_prefix_caching:
        logger.warning(
            "vLLM computes a prompt again for each of its completions, because it does not cache prefixes of this "
            "model by itself: set vllm_mode='server' and start the server with --enable-prefix-caching"
        )


def _check_room_for_turns(client: ServerClient, args: GRPOConfig) -> None:
    """Warn if a later turn may be refused; whether it is depends on how long the completions turn out to be."""
    server: Any = client.config()
    limit: Any = args.max_completion_length
    length = server["model_config"]["max_model_len"]
    if length <= 2 * limit:
        logger.warning(
            f"the vLLM server at {client.url} runs with --max-model-len {length}, which may end the training with "
            f"tools: a turn asks for max_completion_length={limit} tokens after all of the completion before it, and "
            f"is refused where both and the prompt do not fit; give the longest prompt and twice "
            f"max_completion_length={limit}, or no --max-model-len"
        )


def check_server(model: Any, args: GRPOConfig, calls_tools: bool = False) -> None:
    """
    Wait for the vLLM server and check that it can serve the policy, before the model is loaded.

    It waits for 30 seconds, or for as long as a `vllm_server_timeout` other than TRL's default says. That default is
    what a restarted server is waited for during training.
    """
    problem: list[Exception | None] = [None]
    if PartialState().is_main_process:
        try:
            name = model if isinstance(model, str) else model.config._name_or_path
            url = server_url(args.vllm_server_base_url, args.vllm_server_host, args.vllm_server_port)
            client = ServerClient(url)
            if url != client.url:  # TRL would ask for /v1/health until it is killed
                raise ValueError(
                    f"vllm_server_base_url={url} is not an address to which TRL can add its paths: write {client.url}"
                )
            try:
                is_default = args.vllm_server_timeout == GRPOConfig.vllm_server_timeout
                client.wait_until_healthy(_START_TIMEOUT if is_default else args.vllm_server_timeout)
            except ConnectionError as error:
                raise ConnectionError(
                    f"{error}: start it: {start_command(args, name)}; vllm_server_timeout says how long to wait"
                ) from None
            init_kwargs: Any = args.model_init_kwargs or {}
            revision = init_kwargs.get("revision")
            config = (
                AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=args.trust_remote_code)
                if isinstance(model, str)
                else model.config
            )
            check_config(client, args, name, config)
            if calls_tools:
                _check_room_for_turns(client, args)
        except (OSError, ValueError) as error:
            problem[0] = error
    broadcast_object_list(problem)
    if problem[0] is not None:
        raise problem[0]
