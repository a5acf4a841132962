"""
Pushing to the Hub and loading back, against a server on loopback that speaks the Hub's protocol, LFS in the place of
Xet (see `engines/hub_server.py`). huggingface_hub reads its endpoint when it is imported, so all clients are forks of
a process that has read that of the server.
"""

import json
import os
import re
import shlex

import pytest
import torch
import yaml
from engines.fork_server import ForkServer
from engines.hub_server import TOKEN, HubServer
from safetensors.torch import load, load_file

from rest_trl.lab.tiny import TINY_MODEL_DIR


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


class Clients:
    """
    The server and its clients.

    All have one cache: what one test has loaded, another may find there. So repositories have names of their own.
    """

    def __init__(self, hub, forks):
        self.hub, self.forks = hub, forks

    def train(self, path, repo, **changes):
        """The end of the training program that pushes to a repository."""
        environment = {name: changes.pop(name) for name in list(changes) if name.isupper()}
        (end,) = self.forks.start("-m", "rest_trl.train", *command_line(path, repo, **changes), **environment).wait()
        return end

    def run(self, path, code, *arguments):
        """What a program shows."""
        path.write_text(code)
        (end,) = self.forks.run(path, *arguments)
        return end.stdout

    def load_back(self, path, kind, repo, base=""):
        self.run(path / "load.py", LOAD, kind, repo, base, path / "loaded.safetensors")
        return load_file(path / "loaded.safetensors")


@pytest.fixture(scope="module")
def clients(tmp_path_factory):
    with HubServer() as hub, pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("HF_", "HUGGINGFACE"))]:
            patch.delenv(name)
        with ForkServer(**hub.environment, HF_HOME=str(tmp_path_factory.mktemp("home"))) as forks:
            yield Clients(hub, forks)


@pytest.fixture
def hub(clients):
    """The server, which fails in this test alone where the test says so."""
    yield clients.hub
    clients.hub.fail.clear()


def command_line(path, repo, **changes):
    settings = RECIPE | {"output_dir": path / "out", "hub_model_id": repo} | changes
    return [text for name, value in settings.items() for text in (f"--{name}", str(value))]


def metadata(card):
    return yaml.safe_load(card.split("---\n")[1])


def snippet(card, language):
    return re.search(rf"```{language}\n(.*?)```", card, re.DOTALL)[1]


class TestFullCheckpoint:
    @pytest.fixture(scope="class")
    @classmethod
    def pushed(cls, clients, tmp_path_factory):
        tmp_path = tmp_path_factory.mktemp("full")
        changes = {"hub_strategy": "every_save", "save_strategy": "steps", "save_steps": 1}
        end = clients.train(tmp_path, "tester/full", **changes)
        assert end.returncode == 0, end.stderr
        return clients.hub, tmp_path

    def test_comes_back_bit_for_bit(self, pushed, clients):
        hub, tmp_path = pushed
        assert ("resolve", "/tester/full/resolve/main/model.safetensors") not in hub.requests
        loaded, local = (
            clients.load_back(tmp_path, "full", "tester/full"),
            load_file(tmp_path / "out/model.safetensors"),
        )
        assert ("resolve", "/tester/full/resolve/main/model.safetensors") in hub.requests
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

    def test_runs_as_the_card_says(self, pushed, clients):
        hub, tmp_path = pushed
        code = snippet(hub.files("tester/full")["README.md"].decode(), "python")
        assert clients.run(tmp_path / "card.py", code).strip()


class TestAdapter:
    @pytest.mark.parametrize("quantised", [False, True], ids=["lora", "qlora"])
    def test_comes_back_bit_for_bit(self, quantised, clients, hub, tmp_path):
        pytest.importorskip("peft")
        if quantised:
            pytest.importorskip("bitsandbytes")
        repo = "tester/qlora" if quantised else "tester/lora"
        end = clients.train(tmp_path, repo, **LORA, **({"load_in_4bit": True} if quantised else {}))
        assert end.returncode == 0, end.stderr
        files = hub.files(repo)
        assert "model.safetensors" not in files
        local = load_file(tmp_path / "out" / "adapter_model.safetensors")
        assert any(weight.ne(0).any() for name, weight in local.items() if "lora_B" in name)
        pushed = load(files["adapter_model.safetensors"])
        assert pushed.keys() == local.keys()
        assert not any(operation == "resolve" and repo in path for operation, path in hub.requests)
        for kind in ("adapter", "auto_adapter"):
            loaded = clients.load_back(tmp_path, kind, repo, TINY_MODEL_DIR)
            for name, weight in local.items():
                assert torch.equal(loaded[re.sub(r"(lora_[AB])", r"\1.default", name)], weight)
        assert ("resolve", f"/{repo}/resolve/main/adapter_model.safetensors") in hub.requests
        card = files["README.md"].decode()
        assert metadata(card)["library_name"] == "peft"
        assert ("4 bits" in card) == quantised
        clients.run(tmp_path / "card.py", snippet(card, "python"))


class TestFailedPush:
    # As little as trains: what is pushed does not matter here.
    SHORT = {"max_steps": 1, "per_device_train_batch_size": 4, "max_completion_length": 8}
    FAILURES = {"tester/unauthorised": 401, "tester/forbidden": 403, "tester/broken": 500, "tester/dropped": 0}

    def test_leaves_the_model_and_says_where_it_is(self, clients, hub, tmp_path):
        hub.fail |= {("commit", repo): status for repo, status in self.FAILURES.items()}
        messages = {}
        for repo, status in self.FAILURES.items():
            output_dir = tmp_path / repo
            end = clients.train(tmp_path, repo, output_dir=output_dir, **self.SHORT)
            assert end.returncode == 1 and "Traceback" not in end.stderr
            messages[repo] = end.stderr.strip().splitlines()[-1]
            assert f"saved in {output_dir}" in messages[repo]
            assert str(status or "RemoteProtocolError") in messages[repo]
            assert load_file(output_dir / "model.safetensors")
            assert json.loads((output_dir / "trainer_state.json").read_text())["global_step"] == 1
            assert hub.messages(repo) == []
        # The command that it names does what it says, once the Hub is well again.
        hub.fail.clear()
        repo = "tester/broken"
        command = shlex.split(messages[repo].split("Push it with: ")[1])
        assert command.pop(0) == "hf"
        clients.forks.run("-m", "huggingface_hub.cli.hf", *command)
        assert hub.files(repo)["model.safetensors"] == (tmp_path / repo / "model.safetensors").read_bytes()
        assert "State after step 1 of 1" in hub.files(repo)["README.md"].decode()

    def test_ends_the_command_with_one_line_and_a_status(self, clients, hub, tmp_path):
        hub.fail["commit", "tester/launched"] = 403
        arguments = command_line(tmp_path, "tester/launched", **self.SHORT)
        (done,) = clients.forks.start("-m", "rest_trl.cli", "train", *arguments).wait()
        assert done.returncode == 1
        assert "Traceback" not in done.stderr
        assert done.stderr.strip().splitlines()[-1].startswith("rest_trl.train: error: the trained model is saved in")

    def test_is_told_before_training_where_it_can_be(self, clients, tmp_path):
        end = clients.train(tmp_path, "tester/none", HF_TOKEN=TOKEN[::-1])
        assert end.returncode == 1 and "Traceback" not in end.stderr
        assert re.match(r"rest_trl.train: error: .*401", end.stderr.strip().splitlines()[-1])
        assert not (tmp_path / "out").exists()
