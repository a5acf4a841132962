import copy
import errno
import json
import shutil
from pathlib import Path

import pytest
import torch
from accelerate import PartialState
from datasets import Dataset
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from rest_trl import ResTGRPOConfig, ResTGRPOTrainer
from rest_trl.runs import checkpoints
from rest_trl.runs.checkpoints import (
    FullDiskError,
    checkpoint_dirs,
    checkpoint_fault,
    find_checkpoint,
    last_whole_checkpoint,
    naming_full_disk,
    way_on,
)


def write_checkpoint(output_dir, step):
    """What `Trainer` writes, without a model."""
    path = output_dir / f"checkpoint-{step}"
    path.mkdir(parents=True)
    save_file({"weight": torch.ones(8)}, path / "model.safetensors")
    torch.save({"step": step}, path / "optimizer.pt")
    (path / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    return path


def cut(path):
    path.write_bytes(path.read_bytes()[:-4])


def lack_a_shard(checkpoint):
    index = {"weight_map": {"a": "model.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))


FAULTS = {
    "it has no trainer_state.json, which is written last": lambda path: (path / "trainer_state.json").unlink(),
    "its trainer_state.json is cut off": lambda path: cut(path / "trainer_state.json"),
    "its model.safetensors is cut off": lambda path: cut(path / "model.safetensors"),
    "its optimizer.pt is cut off": lambda path: cut(path / "optimizer.pt"),
    "it lacks model-00002-of-00002.safetensors": lack_a_shard,
}


@pytest.fixture(autouse=True)
def state():
    PartialState()  # loggers want it


class TestCheckpointFault:
    def test_of_a_whole_one_is_none(self, tmp_path):
        assert checkpoint_fault(write_checkpoint(tmp_path, 1)) is None

    @pytest.mark.parametrize("fault", FAULTS)
    def test_names_what_is_missing(self, tmp_path, fault):
        path = write_checkpoint(tmp_path, 1)
        FAULTS[fault](path)
        assert checkpoint_fault(path) == fault

    def test_looks_into_the_folders_of_adapters_and_of_sharded_states(self, tmp_path):
        path = write_checkpoint(tmp_path, 1)
        (path / "global_step1").mkdir()
        (path / "global_step1" / "zero_pp_rank_0_mp_rank_00_optim_states.pt").write_bytes(b"PK")
        assert checkpoint_fault(path) == "its global_step1/zero_pp_rank_0_mp_rank_00_optim_states.pt is cut off"


class TestFindCheckpoint:
    def test_sorts_by_step_and_sees_nothing_else(self, tmp_path):
        for step in (9, 10, 2):
            write_checkpoint(tmp_path, step)
        (tmp_path / "checkpoint-best").mkdir()
        (tmp_path / "checkpoint-11").touch()
        assert [path.name for path in checkpoint_dirs(tmp_path)] == ["checkpoint-10", "checkpoint-9", "checkpoint-2"]

    @pytest.mark.parametrize("resume", [True, "true", "True"])
    def test_takes_the_last_whole_one_and_names_the_partial_ones(self, tmp_path, caplog, resume):
        whole = write_checkpoint(tmp_path, 4)
        FAULTS["its model.safetensors is cut off"](write_checkpoint(tmp_path, 2))
        FAULTS["its trainer_state.json is cut off"](write_checkpoint(tmp_path, 5))
        assert find_checkpoint(resume, tmp_path) == str(whole)
        (record,) = caplog.records
        assert "checkpoint-5 is not whole (its trainer_state.json is cut off)" in record.message
        assert f"goes on from {whole}" in record.message and "checkpoint-2" not in record.message

    def test_says_nothing_where_the_last_one_is_whole(self, tmp_path, caplog):
        assert find_checkpoint("true", write_checkpoint(tmp_path, 4).parent)
        assert not caplog.records

    @pytest.mark.parametrize("resume", [None, False, "false"])
    def test_takes_none_where_none_is_asked_for(self, tmp_path, resume):
        write_checkpoint(tmp_path, 4)
        assert find_checkpoint(resume, tmp_path) is None

    def test_refuses_a_directory_without_any(self, tmp_path):
        with pytest.raises(FileNotFoundError, match="has no whole checkpoint to resume from"):
            find_checkpoint(True, tmp_path / "none")

    def test_refuses_a_directory_with_a_partial_one_alone(self, tmp_path):
        FAULTS["its trainer_state.json is cut off"](write_checkpoint(tmp_path, 5))
        with pytest.raises(FileNotFoundError, match=r"resume from: checkpoint-5 is not whole \(its trainer_state"):
            find_checkpoint(True, tmp_path)

    def test_takes_a_path(self, tmp_path):
        first = write_checkpoint(tmp_path, 1)
        write_checkpoint(tmp_path, 2)
        assert find_checkpoint(str(first), tmp_path) == str(first)

    def test_refuses_a_path_that_is_not_there_and_names_one_that_is(self, tmp_path):
        whole = write_checkpoint(tmp_path, 4)
        with pytest.raises(
            FileNotFoundError, match=f"checkpoint-5 to resume from: the last whole one in .* is {whole}"
        ):
            find_checkpoint(str(tmp_path / "checkpoint-5"), tmp_path)

    def test_refuses_a_partial_path(self, tmp_path):
        path = write_checkpoint(tmp_path, 5)
        FAULTS["its optimizer.pt is cut off"](path)
        with pytest.raises(ValueError, match=r"checkpoint-5 is not whole \(its optimizer.pt is cut off\)"):
            find_checkpoint(str(path), tmp_path)


class TestWayOn:
    def test_names_the_last_whole_checkpoint(self, tmp_path):
        assert "has no whole checkpoint, so the next run starts from the beginning" in way_on(tmp_path)
        whole = write_checkpoint(tmp_path, 4)
        assert way_on(tmp_path).startswith(
            f"{whole} is whole: run the same command with --resume_from_checkpoint true"
        )


class TestNamingFullDisk:
    @pytest.mark.parametrize(
        "error",
        [
            OSError(errno.ENOSPC, "No space left on device"),
            OSError(errno.EDQUOT, "Disk quota exceeded"),
            # as safetensors, tokenizers and PyTorch raised them on a disk of 3 MB
            SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
            Exception("No space left on device (os error 28)"),
            RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),
        ],
        ids=lambda error: type(error).__name__,
    )
    def test_says_what_was_written_and_what_is_whole(self, tmp_path, monkeypatch, error):
        usage = shutil.disk_usage(tmp_path)._replace(free=0)
        monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda path: usage)
        whole = write_checkpoint(tmp_path, 4)
        with pytest.raises(FullDiskError) as raised, naming_full_disk("out/checkpoint-5", tmp_path / "not" / "there"):
            raise error
        assert "the disk is full: out/checkpoint-5 could not be written" in str(raised.value)
        with pytest.raises(FullDiskError, match=f"{whole} is whole"), naming_full_disk("out/checkpoint-5", tmp_path):
            raise error

    @pytest.mark.parametrize(
        "error",
        [
            PermissionError(errno.EACCES, "Permission denied"),
            RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),  # with room left
            TypeError("a bug"),
        ],
    )
    def test_leaves_other_errors_as_they_are(self, tmp_path, error):
        with pytest.raises(type(error)) as raised, naming_full_disk("out/checkpoint-5", tmp_path):
            raise error
        assert raised.value is error


def make_trainer(model, tokenizer, output_dir, **changes):
    """A run that takes a second, with a checkpoint after each step."""
    arguments = {
        "max_steps": 3,
        "save_strategy": "steps",
        "save_steps": 1,
        "per_device_train_batch_size": 2,
        "num_generations": 2,
        "max_completion_length": 4,
        "learning_rate": 1e-2,
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "disable_tqdm": True,
        "tool_call_syntax": "hermes",
    } | changes
    return ResTGRPOTrainer(
        model,
        lambda completions, **kwargs: [float(i) for i, _ in enumerate(completions)],
        ResTGRPOConfig(str(output_dir), **arguments),
        train_dataset=Dataset.from_dict({"prompt": ["a", "b"]}),
        processing_class=tokenizer,
    )


def interrupt(monkeypatch, trainer, step, error):
    """Let the save of a step end in the middle: after the weights, before the optimiser's state."""
    save = torch.save

    def failing_save(state, path, *args, **kwargs):
        if trainer.state.global_step == step and Path(path).name == "optimizer.pt":
            Path(path).write_bytes(b"PK")
            raise error
        return save(state, path, *args, **kwargs)

    monkeypatch.setattr(torch, "save", failing_save)


class TestWholeCheckpoints:
    @pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
    def test_a_save_that_was_interrupted_is_not_resumed_from(
        self, model, tokenizer, tmp_path, monkeypatch, caplog, error
    ):
        trainer = make_trainer(model, tokenizer, tmp_path)
        with monkeypatch.context() as context, pytest.raises((KeyboardInterrupt, FullDiskError)) as raised:
            interrupt(context, trainer, 2, error)
            trainer.train()
        if isinstance(error, OSError):
            message = str(raised.value)
            assert f"{tmp_path / 'checkpoint-2'} could not be written" in message
            assert f"{tmp_path / 'checkpoint-1'} is whole" in message
        assert (tmp_path / "checkpoint-2" / "model.safetensors").exists()
        assert last_whole_checkpoint(tmp_path) == tmp_path / "checkpoint-1"
        again = make_trainer(model, tokenizer, tmp_path)
        again.train(resume_from_checkpoint=True)
        assert "checkpoint-2 is not whole" in caplog.text
        assert again.state.global_step == 3
        assert all(checkpoint_fault(path) is None for path in checkpoint_dirs(tmp_path))
        assert len(checkpoint_dirs(tmp_path)) == 3

    def test_a_save_over_an_older_one_is_not_taken_for_it(self, model, tokenizer, tmp_path, monkeypatch):
        make_trainer(model, tokenizer, tmp_path).train()
        trainer = make_trainer(model, tokenizer, tmp_path)
        interrupt(monkeypatch, trainer, 3, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
        assert checkpoint_fault(tmp_path / "checkpoint-3") is not None
        assert last_whole_checkpoint(tmp_path) == tmp_path / "checkpoint-2"

    def test_a_limit_of_checkpoints_always_leaves_a_whole_one(self, model, tokenizer, tmp_path, monkeypatch):
        trainer = make_trainer(model, tokenizer, tmp_path, save_total_limit=1)
        interrupt(monkeypatch, trainer, 3, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            trainer.train()
        assert last_whole_checkpoint(tmp_path) == tmp_path / "checkpoint-2"

    def test_an_adapter_is_resumed_from_the_last_whole_one(self, model, tokenizer, tmp_path, monkeypatch):
        peft = pytest.importorskip("peft")

        def make():
            adapter = peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(r=2, target_modules="all-linear"))
            return make_trainer(adapter, tokenizer, tmp_path)

        trainer = make()
        with monkeypatch.context() as context, pytest.raises(KeyboardInterrupt):
            interrupt(context, trainer, 2, KeyboardInterrupt())
            trainer.train()
        again = make()
        again.train(resume_from_checkpoint=True)
        assert again.state.global_step == 3
        assert [checkpoint_fault(path) for path in checkpoint_dirs(tmp_path)] == [None] * 3

    @pytest.mark.parametrize("drop", [None, "model.norm.weight"])
    def test_a_tied_weight_is_not_missed_but_another_one_is(self, tokenizer, model, tmp_path, monkeypatch, drop):
        config = copy.deepcopy(model.config)
        config.tie_word_embeddings = True
        tied = type(model)(config)
        make_trainer(tied, tokenizer, tmp_path, max_steps=1).train()
        weights = load_file(tmp_path / "checkpoint-1" / "model.safetensors")
        assert "lm_head.weight" not in weights
        kept = {name: weight for name, weight in weights.items() if name != drop}
        save_file(kept, tmp_path / "checkpoint-1" / "model.safetensors", metadata={"format": "pt"})
        said = []
        monkeypatch.setattr("transformers.trainer.logger.warning", said.append)
        make_trainer(tied, tokenizer, tmp_path, max_steps=2).train(resume_from_checkpoint=True)
        assert [text for text in said if "missing keys" in text] == (
            [f"There were missing keys in the checkpoint model loaded: ['{drop}']."] if drop else []
        )


RANKS = """\
import os, sys, time, torch
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from transformers import AutoModelForCausalLM, AutoTokenizer
from test_checkpoints import make_trainer
from rest_trl.runs.checkpoints import checkpoint_dirs, checkpoint_fault

path = Path(sys.argv[1])
model, tokenizer = (kind.from_pretrained(path / "model") for kind in (AutoModelForCausalLM, AutoTokenizer))
trainer = make_trainer(model, tokenizer, path / "out", max_steps=2)
save = torch.save
last = path / "out" / "checkpoint-2"

def slow_save(state, file, *args, **kwargs):
    # The second rank is still to write when the first has written all of its own.
    if trainer.state.global_step == 2 and "rng_state_1" in str(file):
        while not (last / "optimizer.pt").exists():
            time.sleep(0.01)
        assert not (last / "trainer_state.json").exists()
        os._exit(9)
    save(state, file, *args, **kwargs)

torch.save = slow_save
trainer.train()
"""


class TestOfTwoRanks:
    def test_a_save_that_one_rank_leaves_is_not_whole(self, model, tokenizer, tmp_path, fork_server):
        model.save_pretrained(tmp_path / "model")
        tokenizer.save_pretrained(tmp_path / "model")
        driver = tmp_path / "driver.py"
        driver.write_text(RANKS)
        first, second = fork_server.start(driver, tmp_path, Path(__file__).parent, ranks=2).wait()
        assert second.returncode == 9, second.stderr[-2000:]
        assert (tmp_path / "out" / "checkpoint-1" / "rng_state_1.pth").exists()
        assert (tmp_path / "out" / "checkpoint-2" / "optimizer.pt").exists(), first.stderr[-2000:]
        assert last_whole_checkpoint(tmp_path / "out") == tmp_path / "out" / "checkpoint-1"
