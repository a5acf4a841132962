import json
import os
import shutil
from contextlib import nullcontext

import pytest
from transformers import AutoTokenizer

from rest_trl import ResTGRPOConfig
from rest_trl.lab.tiny import TINY_MODEL_DIR
from rest_trl.runs.checkpoints import check_output_dir, continues
from rest_trl.runs.preflight import check_model, check_tokenizer


@pytest.fixture
def copied(tmp_path):
    """A copy of the embedded model, to be spoilt."""
    return shutil.copytree(TINY_MODEL_DIR, tmp_path / "model")


class TestCheckModel:
    @pytest.mark.parametrize("name", ["Qwen/Qwen3-1.7B", str(TINY_MODEL_DIR)])
    def test_passes_ids_and_whole_models(self, name):
        check_model(name)

    def test_names_a_directory_without_a_model(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=f"{tmp_path} holds no model: it has no config.json"):
            check_model(str(tmp_path))

    def test_tells_adapters_from_models(self, tmp_path):
        (tmp_path / "adapter_config.json").write_text("{}")
        with pytest.raises(FileNotFoundError, match="holds an adapter and no model: merge it into its base"):
            check_model(str(tmp_path))

    def test_names_weights_that_are_cut_off(self, copied):
        weights = copied / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1])
        with pytest.raises(ValueError, match=r"model.safetensors is cut off: copy or download the model again"):
            check_model(str(copied))

    @pytest.mark.parametrize("content", ["", '{"model_type": "qwen3"'])
    def test_names_a_config_that_is_cut_off(self, copied, content):
        (copied / "config.json").write_text(content)
        with pytest.raises(ValueError, match=r"config.json is cut off or not JSON"):
            check_model(str(copied))

    def test_refuses_a_config_without_architecture(self, copied):
        (copied / "config.json").write_text(json.dumps({"model_type": "qwen3"}))
        with pytest.raises(ValueError, match=r"config.json names no architectures"):
            check_model(str(copied))


class TestCheckNumbers:
    @pytest.mark.parametrize(
        ("argument", "value"),
        [
            ("diagnose_steps", 2.5),
            ("diagnose_steps", True),
            ("max_steps", 2.5),
            ("max_completion_length", 12.5),
            ("num_generations", 8.0),
            ("gradient_accumulation_steps", 1.5),
            ("save_total_limit", 1.5),
            ("seed", 0.5),
            ("per_device_train_batch_size", "8"),
        ],
    )
    def test_refuses_what_must_be_whole(self, argument, value):
        with pytest.raises(ValueError, match=f"^{argument} must be a whole number, got "):
            ResTGRPOConfig("out", use_cpu=True, bf16=False, **{argument: value})

    @pytest.mark.parametrize(("steps", "is_fine"), [(0, True), (0.25, True), (3, True), (3.0, True), (2.5, False)])
    def test_takes_warmup_as_a_share_or_as_whole_steps(self, steps, is_fine):
        with nullcontext() if is_fine else pytest.raises(ValueError, match="warmup_steps must be whole from 1 on"):
            ResTGRPOConfig("out", use_cpu=True, bf16=False, warmup_steps=steps)


class TestCheckTokenizer:
    def test_passes_one_that_reads_text(self):
        check_tokenizer(AutoTokenizer.from_pretrained(TINY_MODEL_DIR), "tiny")

    def test_refuses_the_empty_one_of_a_model_without_files_of_it(self, copied):
        for file in copied.glob("tokenizer*"):
            file.unlink()
        with pytest.raises(ValueError, match=r"the tokenizer of .* is empty: put the files of its tokenizer there"):
            check_tokenizer(AutoTokenizer.from_pretrained(copied), str(copied))


class TestCheckOutputDir:
    def test_takes_what_is_not_there_yet(self, tmp_path):
        check_output_dir(tmp_path / "new" / "run")
        assert not (tmp_path / "new").exists()

    def test_refuses_a_place_in_a_file(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(NotADirectoryError, match=r"run would lie in .*file, which is a file: give a directory"):
            check_output_dir(tmp_path / "file" / "run")

    def test_refuses_what_may_not_be_written(self, tmp_path, monkeypatch):
        # The superuser may write anywhere.
        monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
        with pytest.raises(PermissionError, match=f"run cannot be written: {tmp_path} is not yours to write in"):
            check_output_dir(tmp_path / "run")

    def test_refuses_no_name(self):
        with pytest.raises(ValueError, match="output_dir is empty"):
            check_output_dir("")


class TestContinues:
    def test_is_true_in_the_directory_of_the_checkpoint_alone(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "link").symlink_to(tmp_path / "a")
        checkpoint = "a/checkpoint-100"
        for output_dir in ("a", "./a", tmp_path / "a", "link", checkpoint):
            assert continues(checkpoint, output_dir)
        for output_dir in ("b", "a/checkpoint-10", "ab"):
            assert not continues(checkpoint, output_dir)
        assert not continues(None, "a")
