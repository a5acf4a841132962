"""
A transcript of training with vLLM: 20 ResT LoRA steps with rollouts from a real server process, and the same run again
with its server killed at step 10 and training resumed from the checkpoint.

```shell
python -m tests.benchmarks.vllm_transcript    # with a Python that has vLLM
```
"""

import argparse
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from scipy.stats import binomtest
from transformers import PrinterCallback, TrainerCallback

from rest_trl.lab.demo import HELD_OUT
from rest_trl.lab.sampling import count_exact, sample
from rest_trl.lab.tiny import TINY_MODEL_DIR, load_tiny_dataset
from rest_trl.serving.recovery import VLLMServerError
from rest_trl.train import make_parser, make_trainer
from tests.engines.cpu_client import use_cpu_weight_transfer
from tests.engines.vllm_server import VLLMServer, free_port


STEPS, KILL_AT = 20, 10
RECIPE = {
    "config": "recipes/demo.yaml",
    "max_steps": STEPS,
    "use_peft": True,
    "lora_r": 16,
    "lora_alpha": 32,
    "lora_dropout": 0.0,  # else the log-probabilities differ by it
    "lora_target_modules": "all-linear",
    "learning_rate": 2e-3,
    "use_vllm": True,
    "vllm_mode": "server",
    "vllm_server_timeout": 20,
    "save_strategy": "steps",
    "save_steps": KILL_AT,
    "disable_tqdm": True,
}
BEGIN = time.monotonic()


def say(text: str) -> None:
    print(f"[{time.monotonic() - BEGIN:6.1f} s] {text}", flush=True)


class Transcript(TrainerCallback):
    """Tells each step, and kills the server after the checkpoint of a step if told so."""

    def __init__(self, server: VLLMServer, kill_at: int | None) -> None:
        self.server, self.kill_at = server, kill_at

    def on_log(self, args, state, control, logs=None, **kwargs):
        if "reward" in logs:
            say(
                f"step {state.global_step:2d}  reward {logs['reward']:5.2f}  exact {logs['rest/reward/exact']:.2f}  "
                f"sampled - trainer log-probability {logs['sampling/sampling_logp_difference/mean']:.1e}"
            )

    def on_save(self, args, state, control, **kwargs):
        if state.global_step == self.kill_at:
            self.server.kill()
            say(f"server killed (SIGKILL) after {args.output_dir}/checkpoint-{state.global_step} was saved")


def make(server: VLLMServer, output_dir: Path, kill_at: int | None = None):
    settings = RECIPE | {
        "output_dir": output_dir,
        "vllm_server_base_url": server.url,
        "vllm_group_port": free_port(),
    }
    parsed = make_parser().parse_args_and_config([text for k, v in settings.items() for text in (f"--{k}", str(v))])
    trainer = make_trainer(*parsed, callbacks=[Transcript(server, kill_at)])
    trainer.remove_callback(PrinterCallback)
    return trainer


def measure(trainer, label: str) -> None:
    held_out = load_tiny_dataset("test", size=HELD_OUT)
    tokenizer, args = trainer.processing_class, trainer.args
    ids = sample(trainer.model, tokenizer, held_out["prompt"], args.max_completion_length, seed=0)
    count = count_exact(ids, held_out["solution"], tokenizer, trainer.tool_call_syntax)
    interval = binomtest(count, HELD_OUT).proportion_ci(method="wilson")
    say(
        f"held-out accuracy {label}: {count / HELD_OUT:.3f} (95% [{interval.low:.3f}, {interval.high:.3f}]; "
        f"{HELD_OUT} prompts, temperature 1)"
    )


def start(server: VLLMServer) -> None:
    server.start(timeout=600)
    say(f"vLLM server at {server.url}, process {server.process.pid}, healthy after {server.start_seconds:.0f} s")


def curve(trainer) -> list[float]:
    return [log["reward"] for log in trainer.state.log_history if "reward" in log]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--directory", type=Path, help="Where checkpoints and logs go. Default: a temporary one.")
    directory = parser.parse_args().directory or Path(tempfile.mkdtemp(prefix="vllm-transcript-"))
    directory.mkdir(parents=True, exist_ok=True)
    server = VLLMServer(TINY_MODEL_DIR, directory / "server.log", max_model_len=1024)
    with pytest.MonkeyPatch.context() as monkeypatch, ExitStack() as stack:
        use_cpu_weight_transfer(monkeypatch)
        stack.callback(server.stop)
        start(server)
        say(f"run A: {STEPS} ResT steps of 64 completions, LoRA, rollouts by the server")
        first = make(server, directory / "a")
        measure(first, "before")
        first.train()
        measure(first, "after run A")

        say(f"run B: the same, the server is killed at step {KILL_AT}")
        second = make(server, directory / "b", kill_at=KILL_AT)
        try:
            second.train()
        except VLLMServerError as error:
            say(f"training ended: {error}")
        start(server)
        say("run B resumed from its checkpoint")
        second = make(server, directory / "b")
        second.train(resume_from_checkpoint=True)
        measure(second, "after run B")

    say("reward per step")
    print("step   run A   run B")
    for step, (a, b) in enumerate(zip(curve(first), curve(second), strict=True), start=1):
        print(f"{step:4d}  {a:6.2f}  {b:6.2f}")
    for name, trainer in (("A", first), ("B", second)):
        rewards = curve(trainer)
        means = [sum(rewards[i : i + 5]) / 5 for i in range(0, STEPS, 5)]
        print(f"run {name}, mean reward of steps 1-5, 6-10, 11-15, 16-20: {', '.join(f'{m:.2f}' for m in means)}")


if __name__ == "__main__":
    main()
