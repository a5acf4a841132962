"""How a trainer is put together: its arguments, its rewards, and what a setting switches on."""

import inspect
from typing import Any

from accelerate.utils import is_peft_model
from transformers.utils import is_bitsandbytes_available
from trl import GRPOTrainer

from .config import ResTGRPOConfig
from .credit.assignment import warn_without_parts
from .credit.turn_rewards import with_turns
from .regions import RegionStatistics
from .rewards import REWARDS, Binding, RuleReward, bind_rewards


def named_arguments(model: Any, reward_funcs: Any, args: Any, positional: Any, kwargs: Any) -> dict[str, Any]:
    """
    The arguments of [`~trl.GRPOTrainer`] by name, with the defaults of [`~rest_trl.ResTGRPOTrainer`].

    Raises:
        ValueError: if `args` is no [`ResTGRPOConfig`].
    """
    signature = inspect.signature(GRPOTrainer)
    arguments: dict[str, Any] = signature.bind_partial(model, reward_funcs, args, *positional, **kwargs).arguments
    if args is None:
        name = model if isinstance(model, str) else model.config._name_or_path
        arguments["args"] = ResTGRPOConfig(f"{name.split('/')[-1]}-ResT")
    elif not isinstance(args, ResTGRPOConfig):
        raise ValueError(
            f"ResTGRPOTrainer needs a ResTGRPOConfig as `args`, got {type(args).__name__}: it takes all arguments of "
            "GRPOConfig"
        )
    if reward_funcs is None and arguments.get("environment_factory") is None:
        arguments["reward_funcs"] = [reward() for reward in REWARDS.values()]
    return arguments


def check_vllm_server(arguments: dict[str, Any]) -> None:
    """Refuse a vLLM server that does not serve this training, if one is asked for."""
    args = arguments["args"]
    if args.use_vllm and args.vllm_mode == "server":
        from .serving.server import check_server

        has_tools = bool(arguments.get("tools") or arguments.get("environment_factory"))
        check_server(arguments["model"], args, has_tools)


def prepare_policy(trainer: Any) -> None:
    """
    Keep the policy in a form that has gradients, and share its prompts if asked to. A vLLM server is joined again
    after a restart; of a vLLM engine in this process it is checked that it caches prompts.
    """
    if trainer.args.share_prompts != "false":
        share_prompts(trainer)
    if is_bitsandbytes_available():
        from .serving.packing import keep_unpacked

        keep_unpacked(trainer.model)
    if trainer.args.use_vllm and trainer.args.vllm_mode == "server":
        from .serving.recovery import guard

        guard(trainer)
    elif trainer.args.use_vllm:
        from .serving.server import check_prefix_caching

        check_prefix_caching(trainer.vllm_generation.llm)


def share_prompts(trainer: Any) -> None:
    """Compute what rows of a micro-batch share once, see [`~rest_trl.shared_prompts.passes.SharedPrompts`]."""
    from .shared_prompts.passes import SharedPrompts

    args, accelerator = trainer.args, trainer.accelerator
    models = [accelerator.unwrap_model(model) for model in (trainer.model, trainer.ref_model) if model is not None]
    parallelism = accelerator.parallelism_config
    is_split = parallelism is not None and (parallelism.cp_enabled or parallelism.sp_enabled)
    has_prompt = any(is_peft_model(model) and model.active_peft_config.is_prompt_learning for model in models)
    continuous = trainer.use_transformers_continuous_batching
    objections = {
        "the policy takes images": trainer.has_images,
        "the adapter has virtual tokens": has_prompt,
        "torch_compile makes a program for each tree": args.torch_compile,
        "use_transformers_continuous_batching has an attention of its own": continuous,
        "sequences are split over processes": is_split,
    }
    models = [model.get_base_model() if is_peft_model(model) else model for model in models]
    trainer.shared_prompts = SharedPrompts(args.share_prompts, models, accelerator, objections)


def bind(trainer: Any, environment_turns: Any) -> None:
    """
    Bind the rewards to the trainer's settings, after adding the turn rewards of its environments, if there are any.

    Raises:
        ValueError: if they cannot score the data.
    """
    if environment_turns is not None:
        trainer.turn_into_reward(environment_turns)
    args, evaluation = trainer.args, trainer.eval_dataset
    of_evaluation = evaluation.values() if isinstance(evaluation, dict) else [evaluation]
    datasets = [dataset for dataset in (trainer.train_dataset, *of_evaluation) if dataset is not None]
    settings = args.reward_schedule, args.steps_per_rollout, trainer.environment_tools
    has_rollout_func = trainer.rollout_func is not None
    binding = Binding(trainer.tool_call_syntax, trainer.reader.turns, *settings, has_rollout_func, trainer.end_ids)
    named = zip(bind_rewards(trainer.reward_funcs, datasets, binding), trainer.reward_func_names, strict=True)
    trainer.reward_funcs = [
        reward_func
        if isinstance(reward_func, RuleReward)
        else with_turns(reward_func, name, trainer.reader.spans, args.turn_discount)
        for reward_func, name in named
    ]
    if args.credit != "completion":
        warn_without_parts(trainer.reward_funcs, args.credit)


def take_environment_turns(arguments: dict[str, Any], reader: Any) -> Any:
    """The turn rewards of the environments, see [`~rest_trl.credit.environments.EnvironmentTurns`]; `None` without."""
    if arguments.get("environment_factory") is None:
        return None
    from .credit.environments import take_turn_rewards

    return take_turn_rewards(arguments, reader.spans)


def stages(trainer: Any) -> tuple[Any, Any, Any]:
    """Branches, refilled groups and gold calls, each `None` where the settings do not ask for it."""
    args = trainer.args
    branches, refilled, gold = None, None, None
    if args.branch_size is not None:
        from .rollouts.branches import Branches

        branches = Branches(trainer, trainer.partitioner)
    if args.refill_groups:
        from .rollouts.refill import RefilledGroups

        refilled = RefilledGroups(trainer)
    if args.gold_weight:
        from .gold import make_teacher

        gold = make_teacher(trainer)
    return branches, refilled, gold


def logs(trainer: Any) -> tuple[Any, Any]:
    """The diagnoses and the log of completions, as callbacks; each `None` where the settings do not ask for it."""
    diagnosis, completion_log = None, None
    trainer.add_callback(RegionStatistics(trainer.args.entropy_decay))
    if trainer.args.diagnose_steps is not None:
        from .lab.diagnose.callback import DiagnoseCallback

        diagnosis = DiagnoseCallback(trainer)
        trainer.add_callback(diagnosis)
    if trainer.log_completions:
        from .lab.display.token_log import TokenLog

        completion_log = TokenLog(trainer.args, trainer.partitioner.token_bytes)
        trainer.add_callback(completion_log)
    return diagnosis, completion_log
