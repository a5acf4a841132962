import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


pytest.importorskip("vllm", reason="needs vLLM: run `make test-vllm`")


def run_colocate(tmp_path, synced, steps, *arguments):
    """What the engine's program prints: the JSON of each line that is some."""
    environment = os.environ | {
        # The engine core in the trainer's process, which TRL's synchronisation needs.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_NO_USAGE_STATS": "1",
        "TORCH_COMPILE_DISABLE": "1",
        "HF_HUB_OFFLINE": "1",
    }
    run = subprocess.run(
        [sys.executable, "-m", "engines.colocate", str(tmp_path), str(synced), str(steps), *arguments],
        cwd=Path(__file__).parents[1],
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    return [json.loads(line) for line in run.stdout.splitlines() if line.startswith(("[[", '{"calls'))]


@pytest.mark.parametrize("arguments", [{}, {"branch_size": 2}], ids=["whole", "branches"])
def test_weights_are_in_sync_until_the_sync_ends(arguments, tmp_path):
    synced, steps = 3, 6
    [differences] = run_colocate(tmp_path, synced, steps, json.dumps(arguments))
    assert len(differences) == steps
    assert all(mean < 1e-5 for mean, _ in differences[:synced]), differences
    assert max(mean for mean, _ in differences[synced:]) > 0.05, differences


def test_the_policy_calls_tools_in_the_loop(tmp_path):
    steps = 3
    arguments = {
        "credit": "turn",
        "coefficients": {"rule": "entropy", "scope": "turn"},
        "max_completion_length": 192,
        "learning_rate": 2e-3,
    }
    differences, calls = run_colocate(tmp_path, steps, steps, json.dumps(arguments), "tools")
    assert len(differences) == steps
    assert all(mean < 1e-5 for mean, _ in differences), differences
    assert all(frequency > 0.5 for frequency in calls["calls"]), calls
