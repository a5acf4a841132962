"""The trackers get the same metrics under the same names; each run writes to its real local store."""

import importlib.util
import json
import os
import re
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from transformers.integrations.integration_utils import rewrite_logs

from rest_trl import Region


METRICS = (Path(__file__).parents[1] / "docs" / "metrics.md").read_text()
TRACKERS = ("tensorboard", "wandb", "trackio")
# Trains a step, evaluates, and writes the names that `Trainer` logged beside those that the trackers got.
PROGRAM = """
import json, sys
from rest_trl.train import make_parser, make_trainer

trainer = make_trainer(*make_parser().parse_args_and_config(["--config", sys.argv[1]], fail_with_unknown_args=True))
trainer.eval_dataset = trainer.eval_dataset.select(range(2))
trainer.train()
json.dump(trainer.state.log_history, open("logs.json", "w"))
"""
# What the trackers and TRL's profiling of wandb and trackio add beside the logs.
OWN = re.compile(r"_\w+|train/global_step|profiling/.*")


def of_tensorboard(directory: Path) -> set[str]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (events,) = directory.rglob("events.out.tfevents.*")
    return set(EventAccumulator(str(events.parent)).Reload().Tags()["scalars"])


def wandb_records(content: bytes) -> Iterator[bytes]:
    """Records of a .wandb file: LevelDB's log format after a header of 7 bytes. wandb has no reader in Python."""
    position, record = 7, b""
    while position + 7 <= len(content):
        left = 32768 - position % 32768
        if left < 7:  # the rest of a block is padding
            position += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        record += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def of_wandb(directory: Path) -> set[str]:
    from wandb.proto.wandb_internal_pb2 import Record

    (file,) = directory.rglob("run-*.wandb")
    items = [item for data in wandb_records(file.read_bytes()) for item in Record.FromString(data).history.item]
    return {item.key or "/".join(item.nested_key) for item in items}


def of_trackio(directory: Path) -> set[str]:
    (file,) = directory.glob("*.db")
    with sqlite3.connect(file) as connection:
        rows = connection.execute("SELECT metrics FROM metrics").fetchall()
    return {name for (metrics,) in rows for name in json.loads(metrics)}


GOLD = re.compile(r"rest/gold/\w+")  # what the recipe of the demo logs beside the metrics of every run
READERS = {"tensorboard": of_tensorboard, "wandb": of_wandb, "trackio": of_trackio}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Directory and logs of a run of three steps that evaluates once and reports to every tracker there is."""
    installed = [name for name in TRACKERS if importlib.util.find_spec(name)]
    directory = tmp_path_factory.mktemp("trackers")
    recipe = {
        **yaml.safe_load((Path(__file__).parents[1] / "recipes" / "demo.yaml").read_text()),
        "output_dir": str(directory / "output"),
        "max_steps": 3,
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 8,
        "num_generations": 4,
        "max_completion_length": 48,
        "eval_strategy": "steps",
        "eval_steps": 3,
        "dataset_test_split": "test",
        "report_to": installed,
    }
    (directory / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    environment = {
        **os.environ,
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(directory),
        "WANDB_SILENT": "true",
        "TENSORBOARD_LOGGING_DIR": str(directory / "tensorboard"),
        "TRACKIO_DIR": str(directory / "trackio"),
    }
    process = subprocess.run(
        [sys.executable, "-c", PROGRAM, "recipe.yaml"],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return directory, json.loads((directory / "logs.json").read_text())


def names_of(logs):
    """What the callbacks make of logs. `step` is put there only after they have seen them."""
    return {name for entry in logs for name in rewrite_logs(entry) if name != "train/step"}


class TestNames:
    @pytest.mark.parametrize("tracker", TRACKERS)
    def test_are_those_of_the_logs(self, run, tracker):
        if not importlib.util.find_spec(tracker):
            pytest.skip(f"{tracker} is not installed")
        directory, logs = run
        summary = names_of(logs[-1:])  # the callbacks put it to different places
        got = READERS[tracker](directory / "trackio" if tracker == "trackio" else directory)
        assert {name for name in got - summary if not OWN.fullmatch(name)} == names_of(logs[:-1]) - summary

    def test_hold_regions_in_training_and_rewards_also_in_evaluation(self, run):
        _, logs = run
        names = names_of(logs)
        rewards = {name.removeprefix("train/") for name in names if name.startswith("train/rest/reward/")}
        others = {name for name in names if re.match("train/rest/(?!reward/)", name)}
        gold = {name for name in others if name.startswith("train/rest/gold/")}
        assert len(rewards) == 7 and len(gold) == 7 and len(others - gold) == 4 * (len(Region) - 1) + 5
        evaluated = {name.removeprefix("eval/") for name in names if name.startswith("eval/rest/")}
        assert evaluated and evaluated <= rewards

    def test_are_those_of_the_docs(self, run):
        _, logs = run
        rows = re.findall(r"^\| `(rest/[\w/<>]+)` \|", METRICS, re.MULTILINE)
        regions = [region.name.lower() for region in Region if region is not Region.NONE]
        table = {row.replace("<region>", region) for row in rows for region in regions}
        of_gold = re.findall(r"^\| `gold_weight` \|.*", METRICS, re.MULTILINE)
        table |= {name for row in of_gold for name in GOLD.findall(row)}
        logged = {name for entry in logs for name in entry if name.startswith("rest/")}
        assert logged == table
