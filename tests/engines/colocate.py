"""
Trains with vLLM in the process of the trainer, without a GPU:
`python -m engines.colocate OUTPUT_DIR SYNCED STEPS [ARGUMENTS [LOOP]]`.

Weights are synchronised at the first SYNCED of STEPS steps. Prints the mean and the maximum of the difference between
the log-probabilities of vLLM and of the policy at each step, in nats, as JSON. ARGUMENTS are more of
`ResTGRPOConfig`, as JSON. Where LOOP is `tools`, the policy calls tools in TRL's loop, and the calls per completion at
each step are printed, too. A program of its own, because the engine changes environment variables, threads and process
groups of its process.
"""

import json
import sys
from functools import partial

from trl.generation import vllm_generation
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

from engines.agent import agent_dataset, agent_tokenizer, buy_ticket, calls_in_turns, find_train
from rest_trl import ResTGRPOConfig, ResTGRPOTrainer
from rest_trl.lab.tiny import TINY_MODEL_DIR, load_tiny_dataset


def distinct_tokens(completion_ids, **kwargs):
    return [float(len(set(ids)) % 7) for ids in completion_ids]


def sync_weights(trainer, synced):
    """TRL's, but through `reload_weights`: on CPU the weights that TRL would write to are packed and gone."""
    generation = trainer.vllm_generation
    if trainer.state.global_step < synced:
        generation.llm.collective_rpc(
            "reload_weights", kwargs={"weights_iterator": iter(list(generation._iter_named_params()))}
        )
        for layer in generation.llm.llm_engine.model_executor.driver_worker.model_runner.model.modules():
            if isinstance(layer, ParallelLMHead):  # see `cpu_weight_transfer`
                layer.quant_method.process_weights_after_loading(layer)
        generation.llm.reset_prefix_cache()


def main(output_dir, synced, steps, arguments="{}", loop=None):
    # TRL's engine is for GPUs: it takes half precision, which cannot show a difference of 1e-5.
    vllm_generation.LLM = partial(vllm_generation.LLM, dtype="float32", enforce_eager=True)
    settings = {
        "use_vllm": True,
        "vllm_mode": "colocate",
        "vllm_max_model_length": 512,
        "use_cpu": True,
        "bf16": False,
        "max_steps": int(steps),
        "learning_rate": 2e-2,
        "lr_scheduler_type": "constant",
        "per_device_train_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 32,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    calls = loop == "tools"
    trainer = ResTGRPOTrainer(
        str(TINY_MODEL_DIR),
        calls_in_turns if calls else distinct_tokens,
        ResTGRPOConfig(output_dir, **settings | json.loads(arguments)),
        train_dataset=agent_dataset() if calls else load_tiny_dataset(size=32),
        processing_class=agent_tokenizer(),
        tools=[find_train, buy_ticket] if calls else None,
    )
    trainer.vllm_generation.sync_weights = partial(sync_weights, trainer, int(synced))
    trainer.train()
    name = "sampling/sampling_logp_difference"
    logs = [log for log in trainer.state.log_history if "loss" in log]
    print(json.dumps([[log[f"{name}/mean"], log[f"{name}/max"]] for log in logs]))
    if calls:
        print(json.dumps({"calls": [log["tools/call_frequency"] for log in logs]}))


if __name__ == "__main__":
    main(*sys.argv[1:])
