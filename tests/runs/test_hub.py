"""
Pushing to the Hub and loading back, against a server on loopback that speaks the Hub's protocol, LFS in the place of
Xet (see `engines/hub_server.py`). huggingface_hub reads its endpoint once per process, so all clients are processes.
"""

import json
import os
import re
import shlex
import subprocess
import sys

import pytest
import torch
import yaml
from engines.hub_server import TOKEN, HubServer
from safetensors.torch import load, load_file

from rest_trl.tiny import TINY_MODEL_DIR


TIMEOUT = 600  # seconds
RECIPE = {
    "model_name_or_path": "tiny",
    "dataset_name": "tiny",
    "max_steps": 2,
    "learning_rate": 1e-3,
    "per_device_train_batch_size": 8,
    "num_generations": 4,
    "max_completion_length": 96,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "use_cpu": True,
    "bf16": False,
    "disable_tqdm": True,
    "push_to_hub": True,
}
LORA = {"use_peft": True, "lora_r": 4, "lora_target_modules": "all-linear"}

# Loads a repository as its user would, and keeps the weights.
LOAD = """\
import sys
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

kind, repo, base, path = sys.argv[1:]
if kind == "full":
    model = AutoModelForCausalLM.from_pretrained(repo)
elif kind == "auto_adapter":
    from peft import AutoPeftModelForCausalLM
    model = AutoPeftModelForCausalLM.from_pretrained(repo)
else:
    from peft import PeftModel
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), repo)
assert AutoTokenizer.from_pretrained(repo)("a b")["input_ids"]
save_file({name: weight.clone() for name, weight in model.state_dict().items()}, path)
"""

# Several runs of the program in one process: importing TRL takes longer than training.
RUNS = """\
import json, sys
from rest_trl.train import main

ends = {}
for repo, arguments in json.load(open(sys.argv[1])).items():
    try:
        main(arguments)
        ends[repo] = None
    except SystemExit as error:
        ends[repo] = error.code
print("ENDS" + json.dumps(ends))
"""


def client(hub, home, *command, **environment):
    """Run Python as a client of the server."""
    base = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGINGFACE"))}
    env = base | hub.environment | {"HF_HOME": str(home), "OMP_NUM_THREADS": "1"} | environment
    return subprocess.run(
        [sys.executable, *map(str, command)], env=env, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )


def command_line(arguments):
    return [text for name, value in arguments.items() for text in (f"--{name}", str(value))]


def train(hub, tmp_path, repo, **changes):
    arguments = RECIPE | {"output_dir": tmp_path / "out", "hub_model_id": repo} | changes
    return client(hub, tmp_path / "home", "-m", "rest_trl.cli", "train", *command_line(arguments))


def load_back(hub, tmp_path, kind, repo, base=""):
    done = client(hub, tmp_path / "fresh-home", "-c", LOAD, kind, repo, base, tmp_path / "loaded.safetensors")
    assert done.returncode == 0, done.stderr[-3000:]
    return load_file(tmp_path / "loaded.safetensors")


def metadata(card):
    return yaml.safe_load(card.split("---\n")[1])


def snippet(card, language):
    return re.search(rf"```{language}\n(.*?)```", card, re.DOTALL)[1]


class TestFullCheckpoint:
    @pytest.fixture(scope="class")
    @classmethod
    def pushed(cls, tmp_path_factory):
        tmp_path = tmp_path_factory.mktemp("full")
        with HubServer() as hub:
            changes = {"hub_strategy": "every_save", "save_strategy": "steps", "save_steps": 1}
            done = train(hub, tmp_path, "tester/full", **changes)
            assert done.returncode == 0, done.stderr[-3000:]
            yield hub, tmp_path

    def test_comes_back_bit_for_bit(self, pushed):
        hub, tmp_path = pushed
        loaded, local = load_back(hub, tmp_path, "full", "tester/full"), load_file(tmp_path / "out/model.safetensors")
        assert all(torch.equal(loaded[name], weight) for name, weight in local.items())
        base = load_file(TINY_MODEL_DIR / "model.safetensors")
        assert any(not torch.equal(weight.to(base[name].dtype), base[name]) for name, weight in local.items())

    def test_was_pushed_at_every_save_and_at_the_end(self, pushed):
        hub, _ = pushed
        assert hub.messages("tester/full") == [
            "Training in progress, step 1",
            "Training in progress, step 2",
            "End of training",
        ]

    def test_holds_card_and_curves_of_every_push(self, pushed):
        hub, tmp_path = pushed
        for step, (_, _, files) in zip((1, 2, 2), hub.commits["tester/full"][1:], strict=True):
            card = files["README.md"].decode()
            assert f"State after step {step} of 2" in card
            assert metadata(card)["model_name"] == "full"
            assert str(tmp_path) not in card and str(TINY_MODEL_DIR) not in card
            assert files["curves.png"].startswith(b"\x89PNG")

    def test_runs_as_the_card_says(self, pushed):
        hub, tmp_path = pushed
        code = snippet(hub.files("tester/full")["README.md"].decode(), "python")
        done = client(hub, tmp_path / "fresh-home", "-c", code)
        assert done.returncode == 0, done.stderr[-3000:]
        assert done.stdout.strip()


class TestAdapter:
    @pytest.mark.parametrize("quantised", [False, True], ids=["lora", "qlora"])
    def test_comes_back_bit_for_bit(self, quantised, tmp_path):
        pytest.importorskip("peft")
        if quantised:
            pytest.importorskip("bitsandbytes")
        with HubServer() as hub:
            done = train(hub, tmp_path, "tester/adapter", **LORA, **({"load_in_4bit": True} if quantised else {}))
            assert done.returncode == 0, done.stderr[-3000:]
            files = hub.files("tester/adapter")
            assert "model.safetensors" not in files
            local = load_file(tmp_path / "out" / "adapter_model.safetensors")
            assert any(weight.ne(0).any() for name, weight in local.items() if "lora_B" in name)
            pushed = load(files["adapter_model.safetensors"])
            assert pushed.keys() == local.keys()
            for kind in ("adapter", "auto_adapter"):
                loaded = load_back(hub, tmp_path, kind, "tester/adapter", TINY_MODEL_DIR)
                for name, weight in local.items():
                    assert torch.equal(loaded[re.sub(r"(lora_[AB])", r"\1.default", name)], weight)
            card = files["README.md"].decode()
            assert metadata(card)["library_name"] == "peft"
            assert ("4 bits" in card) == quantised
            code = snippet(card, "python")
            done = client(hub, tmp_path / "fresh-home", "-c", code)
            assert done.returncode == 0, done.stderr[-3000:]


class TestFailedPush:
    FAILURES = {"tester/unauthorised": 401, "tester/forbidden": 403, "tester/broken": 500, "tester/dropped": 0}

    def test_leaves_the_model_and_says_where_it_is(self, tmp_path):
        runs = {
            repo: command_line(RECIPE | {"max_steps": 1, "output_dir": tmp_path / repo, "hub_model_id": repo})
            for repo in self.FAILURES
        }
        (tmp_path / "runs.json").write_text(json.dumps(runs))
        with HubServer({("commit", repo): status for repo, status in self.FAILURES.items()}) as hub:
            done = client(hub, tmp_path / "home", "-c", RUNS, tmp_path / "runs.json")
            ends = json.loads(done.stdout.split("ENDS")[-1])
            for repo, status in self.FAILURES.items():
                message, output_dir = ends[repo], tmp_path / repo
                assert "\n" not in message and f"saved in {output_dir}" in message
                assert str(status or "RemoteProtocolError") in message
                assert load_file(output_dir / "model.safetensors")
                assert json.loads((output_dir / "trainer_state.json").read_text())["global_step"] == 1
                assert hub.messages(repo) == []
            # The command that it names does what it says, once the Hub is well again.
            hub.fail.clear()
            repo = "tester/broken"
            command = shlex.split(ends[repo].split("Push it with: ")[1])
            assert command.pop(0) == "hf"
            done = client(hub, tmp_path / "home", "-m", "huggingface_hub.cli.hf", *command)
            assert done.returncode == 0, done.stderr[-3000:]
            assert hub.files(repo)["model.safetensors"] == (tmp_path / repo / "model.safetensors").read_bytes()
            assert "State after step 1 of 1" in hub.files(repo)["README.md"].decode()

    def test_ends_the_program_with_one_line_and_a_status(self, tmp_path):
        with HubServer({("commit", "tester/forbidden"): 403}) as hub:
            done = train(hub, tmp_path, "tester/forbidden", max_steps=1)
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert done.stderr.strip().splitlines()[-1].startswith("rest_trl.train: error: the trained model is saved in")

    def test_is_told_before_training_where_it_can_be(self, tmp_path):
        with HubServer() as hub:
            arguments = RECIPE | {"output_dir": tmp_path / "out", "hub_model_id": "tester/none"}
            command = ("-m", "rest_trl.cli", "train", *command_line(arguments))
            done = client(hub, tmp_path / "home", *command, HF_TOKEN=TOKEN[::-1])
            assert done.returncode == 1 and "Traceback" not in done.stderr
            assert re.match(r"rest_trl.train: error: .*401", done.stderr.strip().splitlines()[-1])
        assert not (tmp_path / "out").exists()
