from pathlib import Path

import pytest
import yaml

from rest_trl.runs.arguments import changed_arguments, is_hub_id, is_local_path, without_directories
from rest_trl.train import make_parser


def parse(*arguments):
    return make_parser().parse_args_and_config([*map(str, arguments), "--use_cpu", "true"])


# Recipes of supervised fine-tuning are read by another program, which writes no card of ours.
RECIPES = [
    path
    for path in sorted(Path("recipes").glob("*.yaml"))
    if path.stem != "arms" and "-m rest_trl.train" in path.read_text()
]


class TestChangedArguments:
    @pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
    def test_make_the_recipe_again(self, recipe, tmp_path, monkeypatch):
        first = changed_arguments(*parse("--config", recipe, "--learning_rate", 1e-5, "--bf16", "false"))
        assert first["learning_rate"] == 1e-5
        (tmp_path / "again.yaml").write_text(yaml.safe_dump(first))
        assert changed_arguments(*parse("--config", tmp_path / "again.yaml")) == first

    def test_leave_out_what_is_of_the_machine(self, tmp_path):
        arguments = ["--output_dir", tmp_path / "out", "--hub_token", "hf_secret", "--run_name", "mine"]
        arguments += ["--dataset_name", tmp_path / "train.jsonl", "--bf16", "false"]
        arguments += ["--model_init_kwargs", f'{{"config": "{tmp_path}/config.json"}}']
        arguments += ["--vllm_server_base_url", "http://10.0.0.3:8000"]
        changed = changed_arguments(*parse(*arguments))
        assert changed == {
            "dataset_name": "train.jsonl",
            "bf16": False,
            "use_cpu": True,
            "model_init_kwargs": {"config": "config.json"},
        }


class TestWithoutDirectories:
    @pytest.mark.parametrize(
        ("value", "kept"),
        [
            ("/home/me/model", "model"),
            ("~/data/train.jsonl", "train.jsonl"),
            ("../train.jsonl", "train.jsonl"),
            (r"C:\Users\me\model", "model"),
            ("a=/home/me/model, b=1", "a=model, b=1"),
            (Path("/home/me/x"), "x"),
            ("recipes/accelerate", "accelerate"),  # is here
            ("Qwen/Qwen3-1.7B", "Qwen/Qwen3-1.7B"),
            ("https://example.org/a/b", "https://example.org/a/b"),
            ("</think>", "</think>"),
            ({"a": ("/x/y", 1, None)}, {"a": ["y", 1, None]}),
        ],
    )
    def test_keep_the_last_component_of_paths(self, value, kept):
        assert without_directories(value) == kept


class TestIsHubId:
    @pytest.mark.parametrize(
        ("name", "expected"),
        [
            ("Qwen/Qwen3-1.7B", True),
            ("tiny", False),
            ("tiny/calls", False),  # in the package
            (None, False),
            ("./a/b", False),
            ("a/b/c", False),
            ("recipes/accelerate", False),  # is here
        ],
    )
    def test_is_owner_and_name(self, name, expected):
        assert is_hub_id(name) is expected
        assert not (expected and is_local_path(name))
