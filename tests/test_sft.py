import copy
import json
import shutil
import sys
from typing import Any

import pytest
import torch
import yaml
from accelerate import PartialState
from chat_templates import TEMPLATES
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from rest_trl import Region, partition
from rest_trl.gold.continuations import end_of_turn
from rest_trl.lab.sft import ResTSFTConfig, ResTSFTTrainer, main
from rest_trl.lab.sft.rows import stop_ids, tokenize_rows
from rest_trl.lab.tiny import TINY_MODEL_DIR


PROMPT = "<|im_start|>user\nWhat is the weather in Paris?<|im_end|>\n<|im_start|>assistant\n"
SOLUTIONS = [
    '<think>\nParis\n</think>\n\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>',
    "The weather in Paris is sunny, 21 degrees.",
    '<tool_call>\n{"name": "add_event", "arguments": {"title": "lunch", "days": 3}}\n</tool_call>',
    "<think> no tool </think> no",
]
TSFT = {"format_weight": 2.0, "tool_name_weight": 2.0, "parameters_weight": 2.0}
RSFT = {"reasoning_weight": 2.0}


def rows(count: int = 8) -> Dataset:
    return Dataset.from_list(
        [{"prompt": f"{i}: {PROMPT}", "solution": SOLUTIONS[i % len(SOLUTIONS)]} for i in range(count)]
    )


def arguments(path: Any, **changes: Any) -> dict[str, Any]:
    return {
        "output_dir": str(path),
        "per_device_train_batch_size": 4,
        "max_steps": 2,
        "learning_rate": 1e-2,
        "lr_scheduler_type": "constant",
        "optim": "sgd",
        "max_grad_norm": 0.0,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        "bf16": False,
        "disable_tqdm": True,
    } | changes


def config(path: Any, **changes: Any) -> ResTSFTConfig:
    return ResTSFTConfig(**arguments(path, **({"tool_call_syntax": "hermes"} | changes)))


@pytest.fixture
def make(model, tokenizer, tmp_path):
    """Makes a trainer of the random model; all start from the same weights."""
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def made(**changes: Any) -> ResTSFTTrainer:
        model.load_state_dict(start)
        dataset = changes.pop("train_dataset", rows())
        kwargs = {"eval_dataset": changes.pop("eval_dataset")} if "eval_dataset" in changes else {}
        return ResTSFTTrainer(
            model, config(tmp_path, **changes), train_dataset=dataset, processing_class=tokenizer, **kwargs
        )

    return made


def trained(trainer: Any) -> tuple[list[float], dict[str, torch.Tensor]]:
    trainer.train()
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    return losses, {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


def token_losses(trainer: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Negative log-likelihood of every token but the first of each row, from plain logits."""
    logits = trainer.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.transpose(1, 2), batch["labels"][:, 1:], reduction="none")


def batch_of(trainer: Any) -> dict[str, torch.Tensor]:
    return next(iter(trainer.get_train_dataloader()))


class TestEqualWeights:
    @pytest.mark.parametrize("changes", [{}, {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2}])
    def test_are_trl_to_the_bit(self, make, model, tokenizer, tmp_path, changes):
        losses, weights = trained(make(**changes))
        make()  # resets the weights
        tokenized = tokenize_rows(rows(), tokenizer, "train")
        theirs = SFTTrainer(
            model,
            SFTConfig(**arguments(tmp_path, **changes)),
            train_dataset=tokenized,
            processing_class=tokenizer,
        )
        expected_losses, expected_weights = trained(theirs)
        assert losses == expected_losses
        assert all(torch.equal(weights[name], expected_weights[name]) for name in expected_weights)

    def test_need_not_be_ones(self, make):
        names = ("format", "tool_name", "parameters", "reasoning", "response")
        ones, _ = trained(make())
        twos, _ = trained(make(**{f"{name}_weight": 2.0 for name in names}))
        assert twos == ones


class TestWeights:
    @pytest.mark.parametrize("weights", [TSFT, RSFT, {"reasoning_weight": 0.0}, {"response_weight": 0.25}])
    def test_loss_is_the_weighted_likelihood_over_trls_count_of_tokens(self, make, tokenizer, weights):
        trainer = make(**weights)
        batch = batch_of(trainer)
        gold = batch["labels"] != -100
        region_ids = partition(batch["input_ids"], tokenizer, "hermes", gold)
        coefficients = torch.tensor(trainer.args.region_weights)[region_ids.long()] * gold
        coefficients = coefficients / (coefficients.sum(1, keepdim=True) / gold.sum(1, keepdim=True))
        expected = (token_losses(trainer, batch) * coefficients[:, 1:]).sum() / gold.sum()
        loss = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=gold.sum())
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
        assert not torch.isclose(loss, (token_losses(trainer, batch) * gold[:, 1:]).sum() / gold.sum(), rtol=1e-4)

    def test_mean_is_one_over_each_completion(self, make):
        trainer, seen = make(**TSFT), []
        forward = trainer._forward
        trainer._forward = lambda model, region_ids, coefficients, **inputs: (
            seen.append(coefficients) or forward(model, region_ids, coefficients, **inputs)
        )
        batch = batch_of(trainer)
        trainer.compute_loss(trainer.model, dict(batch))
        gold = batch["labels"] != -100
        torch.testing.assert_close(seen[0].sum(1), gold.sum(1).float(), rtol=1e-6, atol=0)
        assert (seen[0][~gold] == 0).all()

    def test_tsft_raises_the_share_of_calls_and_rsft_that_of_reasoning(self, make):
        def coefficients(**weights):
            trainer = make(max_steps=1, **weights)
            trainer.train()
            return trainer.state.log_history[0]

        tsft, rsft = coefficients(**TSFT), coefficients(**RSFT)
        for region in ("format", "tool_name", "parameters"):
            assert tsft[f"rest/coefficient/{region}"] > 1 > rsft[f"rest/coefficient/{region}"]
        assert tsft["rest/coefficient/reasoning"] < 1 < rsft["rest/coefficient/reasoning"]

    def test_accumulation_is_one_large_batch(self, make):
        _, whole = trained(make(per_device_train_batch_size=8, max_steps=1, **TSFT))
        _, split = trained(make(per_device_train_batch_size=2, gradient_accumulation_steps=4, max_steps=1, **TSFT))
        for name in whole:
            torch.testing.assert_close(split[name], whole[name], rtol=1e-5, atol=1e-6)

    def test_ranks_average_as_trl_does(self, make):
        # DDP averages gradients over ranks, so each rank's loss is its sum times the ranks over the common count.
        trainer = make(per_device_train_batch_size=4, **TSFT)
        batch = batch_of(trainer)
        count = (batch["labels"] != -100).sum()
        whole = trainer.compute_loss(trainer.model, dict(batch), num_items_in_batch=count)
        halves = [{name: tensor[part] for name, tensor in batch.items()} for part in (slice(0, 2), slice(2, 4))]
        ranks = [2 * trainer.compute_loss(trainer.model, half, num_items_in_batch=count) for half in halves]
        torch.testing.assert_close(sum(ranks) / 2, whole, rtol=1e-5, atol=1e-6)


class TestMetrics:
    def test_likelihood_is_logged_per_region_without_weights(self, make, tokenizer):
        trainer = make(max_steps=1, learning_rate=0.0, per_device_train_batch_size=8, **TSFT)
        batch = batch_of(trainer)
        gold = batch["labels"] != -100
        regions = partition(batch["input_ids"], tokenizer, "hermes", gold)[:, 1:]
        losses = token_losses(trainer, batch).detach()
        trainer.train()
        log = trainer.state.log_history[0]
        assert log["rest/nll/all"] == pytest.approx(losses[gold[:, 1:]].mean().item(), rel=1e-5)
        for region in list(Region)[1:]:
            expected = losses[regions == region].mean().item()
            assert log[f"rest/nll/{region.name.lower()}"] == pytest.approx(expected, rel=1e-5)
        assert sum(log[f"rest/share/{region.name.lower()}"] for region in list(Region)[1:]) == pytest.approx(1)

    def test_evaluation_has_its_own(self, make):
        trainer = make(eval_dataset=rows(4), **TSFT)
        metrics = trainer.evaluate()
        assert metrics["eval_rest/nll/all"] > 0
        assert trainer.evaluate(rows(4))["eval_rest/nll/all"] == pytest.approx(metrics["eval_rest/nll/all"])


class TestRows:
    def test_completion_is_the_solution_and_the_end_of_the_turn(self, tokenizer):
        tokenized = tokenize_rows(rows(2), tokenizer, "train")
        for row, source in zip(tokenized, rows(2), strict=True):
            completion = [label for label in row["labels"] if label != -100]
            assert row["input_ids"][len(row["input_ids"]) - len(completion) :] == completion
            assert row["input_ids"][: -len(completion)] == tokenizer(source["prompt"])["input_ids"]
            assert tokenizer.decode(completion) == source["solution"] + tokenizer.eos_token

    def test_every_gold_token_has_a_region(self, tokenizer):
        tokenized = tokenize_rows(rows(4), tokenizer, "train")
        for row in tokenized:
            ids, gold = torch.tensor([row["input_ids"]]), torch.tensor([row["labels"]]) != -100
            region_ids = partition(ids, tokenizer, "hermes", gold)
            assert ((region_ids != Region.NONE) == gold).all()

    def test_tokenized_rows_are_left_alone(self, tokenizer):
        tokenized = tokenize_rows(rows(2), tokenizer, "train")
        assert tokenize_rows(tokenized, tokenizer, "train") is tokenized

    @pytest.mark.parametrize(
        ("dataset", "message"),
        [
            (Dataset.from_dict({"text": ["a"]}), "has the columns text, but training needs prompt and solution"),
            (
                Dataset.from_dict({"prompt": [[{"role": "user"}]], "solution": ["a"]}),
                "prompt or a solution that is no",
            ),
            (rows(1).to_iterable_dataset(), "is a IterableDataset: give a datasets.Dataset"),
        ],
    )
    def test_other_rows_are_refused(self, tokenizer, dataset, message):
        with pytest.raises(ValueError, match=message):
            tokenize_rows(dataset, tokenizer, "train")

    def test_rows_that_are_cut_off_are_counted(self, tokenizer, caplog):
        PartialState()  # the logger of accelerate needs one
        lengths = sorted(len(ids) for ids in tokenize_rows(rows(4), tokenizer, "train")["input_ids"])
        tokenize_rows(rows(4), tokenizer, "train", max_length=lengths[-1])
        assert not caplog.records
        tokenize_rows(rows(4), tokenizer, "train", max_length=lengths[-1] - 1)
        assert "1 of 4 rows of the train data set are longer than max_length" in caplog.text

    def test_no_room_for_any_completion_is_refused(self, tokenizer):
        with pytest.raises(ValueError, match="all 4 prompts of the train data set fill max_length=4: raise it"):
            tokenize_rows(rows(4), tokenizer, "train", max_length=4)


def with_template(tokenizer: Any, name: str | None) -> Any:
    """The tokenizer with a template of TRL, and with the tokens that such templates write after a turn."""
    changed = copy.deepcopy(tokenizer)
    changed.add_tokens(["<end_of_turn>", "<|end|>"], special_tokens=True)
    changed.chat_template = None if name is None else TEMPLATES[name]
    return changed


class TestEndOfTurn:
    @pytest.mark.parametrize(
        ("template", "stops", "expected"),
        [
            ("qwen3", (), "<|im_end|>"),
            ("gemma3", ("<|im_end|>", "<end_of_turn>"), "<end_of_turn>"),
            ("gemma3", (), "<|im_end|>"),  # generation would not stop at what the template writes
            ("phi3", ("<|end|>",), "<|end|>"),
            ("phi3", (), "<|end|>\n<|im_end|>"),
            ("glm4moe", ("<|end|>",), "<|im_end|>"),  # it writes nothing
            ("smolvlm", ("<|im_start|>",), "<|im_end|>"),  # it leaves out text
            ("llava_next", ("<|end|>",), "<|im_end|>"),  # it refuses text
            (None, ("<|end|>",), "<|im_end|>"),
        ],
    )
    def test_is_what_the_template_writes_up_to_where_generation_stops(self, tokenizer, template, stops, expected):
        changed = with_template(tokenizer, template)
        ids = end_of_turn(changed, changed.convert_tokens_to_ids(list(stops)))
        assert changed.decode(ids) == expected

    def test_is_that_of_the_template_in_the_arguments(self, tokenizer):
        changed = with_template(tokenizer, None)
        stops = changed.convert_tokens_to_ids(["<end_of_turn>"])
        assert end_of_turn(changed, stops, {"chat_template": TEMPLATES["gemma3"]}) == stops

    def test_stops_are_those_of_the_generation_config(self, model, tmp_path):
        assert stop_ids(model) == {model.config.eos_token_id}
        model.generation_config.eos_token_id = [3, 5]
        model.save_pretrained(tmp_path)
        assert stop_ids(str(tmp_path)) == stop_ids(model) == {3, 5}
        model.generation_config.eos_token_id = None
        (tmp_path / "generation_config.json").unlink()
        assert stop_ids(str(tmp_path)) == stop_ids(model) == set()

    def test_of_the_tiny_model_is_its_end_of_sequence_token(self):
        tiny = AutoTokenizer.from_pretrained(TINY_MODEL_DIR)
        assert end_of_turn(tiny, stop_ids(str(TINY_MODEL_DIR))) == [tiny.eos_token_id]

    @pytest.mark.parametrize(("eos_token", "expected"), [(None, "<end_of_turn>"), ("<|end|>", "<|end|>")])
    def test_ends_the_rows_of_a_training(self, model, tokenizer, tmp_path, eos_token, expected):
        changed = with_template(tokenizer, "gemma3")
        model.resize_token_embeddings(len(changed))
        model.generation_config.eos_token_id = changed.convert_tokens_to_ids(["<|im_end|>", "<end_of_turn>"])
        arguments = config(tmp_path, eos_token=eos_token)
        trainer = ResTSFTTrainer(
            model, arguments, train_dataset=rows(2), eval_dataset=rows(2), processing_class=changed
        )
        for dataset in (trainer.train_dataset, trainer.eval_dataset):
            assert [changed.decode(row["labels"][-1:]) for row in dataset] == [expected] * 2


class TestConfig:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"packing": True}, "leave them out"),
            ({"eval_packing": True}, "leave them out"),
            ({"padding_free": True}, "leave them out"),
            ({"assistant_only_loss": True}, "gold completion of each row"),
            ({"completion_only_loss": False}, "gold completion of each row"),
            ({"truncation_mode": "keep_end"}, "set truncation_mode='keep_start'"),
            ({"loss_type": "dft", **TSFT}, "set loss_type='nll'"),
            ({"label_smoothing_factor": 0.1, **RSFT}, "no smoothing"),
            ({"reasoning_weight": -1.0}, "finite and not negative"),
            ({"reasoning_weight": float("nan")}, "finite and not negative"),
            (dict.fromkeys((*TSFT, "reasoning_weight", "response_weight"), 0.0), "one of them positive"),
            ({"tool_call_syntax": "xml"}, "unknown tool_call_syntax 'xml'"),
        ],
    )
    @pytest.mark.filterwarnings("ignore:The `'keep_end'` truncation mode")
    def test_refuses_what_does_not_fit(self, tmp_path, change, message):
        with pytest.raises(ValueError, match=message):
            config(tmp_path, **change)

    def test_equal_weights_leave_trls_losses(self, tmp_path):
        assert config(tmp_path, loss_type="dft").loss_type == "dft"


class TestTrainer:
    @pytest.mark.parametrize("name", ["compute_loss_func", "formatting_func"])
    def test_refuses_what_would_replace_loss_or_rows(self, model, tokenizer, tmp_path, name):
        with pytest.raises(ValueError, match=f"{name} would take the place"):
            ResTSFTTrainer(
                model, config(tmp_path), train_dataset=rows(), processing_class=tokenizer, **{name: lambda *a: None}
            )

    def test_needs_its_own_config(self, model, tokenizer, tmp_path):
        with pytest.raises(ValueError, match="needs a ResTSFTConfig"):
            ResTSFTTrainer(model, SFTConfig(**arguments(tmp_path)), train_dataset=rows(), processing_class=tokenizer)


def command_line(settings: dict[str, Any]) -> list[str]:
    return [text for name, value in settings.items() for text in (f"--{name}", str(value))]


def program(path: Any, **changes: Any) -> list[str]:
    settings = arguments(path, model_name_or_path="tiny", dataset_name="tiny", per_device_train_batch_size=2)
    return command_line(settings | changes)


def history(path: Any) -> list[dict[str, Any]]:
    return [log for log in json.loads((path / "trainer_state.json").read_text())["log_history"] if "loss" in log]


class TestProgram:
    def test_saves_a_checkpoint_from_which_rest_starts(self, tmp_path):
        from rest_trl.train import main as rest

        main(program(tmp_path / "sft", **TSFT))
        before = AutoModelForCausalLM.from_pretrained(TINY_MODEL_DIR).state_dict()
        after = AutoModelForCausalLM.from_pretrained(tmp_path / "sft").state_dict()
        assert after.keys() == before.keys()
        assert any((after[name] != before[name]).any() for name in before)
        settings = arguments(tmp_path / "rest", model_name_or_path=tmp_path / "sft", dataset_name="tiny", max_steps=1)
        rest(command_line(settings | {"num_generations": 4, "max_completion_length": 8}))
        assert len(history(tmp_path / "rest")) == 1

    def test_two_ranks_train_as_one(self, tmp_path, fork_server):
        settings = {"max_steps": 1, "learning_rate": 0.1, **TSFT}
        main(program(tmp_path / "one", per_device_train_batch_size=4, **settings))
        fork_server.run("-m", "rest_trl.lab.sft", *program(tmp_path / "two", **settings), ranks=2)
        start, one, two = (
            AutoModelForCausalLM.from_pretrained(path).state_dict()
            for path in (TINY_MODEL_DIR, tmp_path / "one", tmp_path / "two")
        )
        moved = max((one[name] - start[name]).abs().max() for name in one)
        assert moved > 1e-3
        assert max((one[name] - two[name]).abs().max() for name in one) < 1e-4 * moved
        for name in ("loss", "rest/nll/all", "rest/coefficient/reasoning"):
            assert history(tmp_path / "two")[0][name] == pytest.approx(history(tmp_path / "one")[0][name], rel=1e-5)

    def test_resumes_as_if_it_had_not_stopped(self, tmp_path):
        saves = {
            "max_steps": 3,
            "save_strategy": "steps",
            "save_steps": 2,
            "optim": "adamw_torch",
            "learning_rate": 1e-4,
        }
        main(program(tmp_path / "out", **saves))
        whole = history(tmp_path / "out")
        shutil.rmtree(tmp_path / "out" / "checkpoint-3")
        main(program(tmp_path / "out", **saves, resume_from_checkpoint="true"))
        resumed = history(tmp_path / "out")
        assert [log["step"] for log in resumed] == [1, 2, 3]
        assert [log["loss"] for log in resumed] == [log["loss"] for log in whole]

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"reward_funcs": "tool_call_reward"}, "unknown argument --reward_funcs"),
            (
                {"dataset_name": "no/such/file.jsonl"},
                "There is no file or directory no/such/file.jsonl: check",
            ),
            ({"reasoning_weight": -1}, "finite and not negative"),
            ({"packing": True}, "packing, eval_packing and padding_free join"),
            ({"max_length": 4}, "all 2048 prompts of the train data set fill max_length=4"),
        ],
    )
    def test_says_in_one_line_what_is_wrong(self, tmp_path, change, message):
        with pytest.raises(SystemExit) as error:
            main(program(tmp_path, **change))
        assert isinstance(error.value.code, str) and "\n" not in error.value.code
        assert error.value.code.startswith("rest_trl.lab.sft: error: ")
        assert message in error.value.code

    def test_reads_a_recipe_that_the_command_line_overrides(self, tmp_path):
        recipe = tmp_path / "recipe.yaml"
        settings = arguments(tmp_path / "no", model_name_or_path="tiny", dataset_name="tiny", reasoning_weight=2.0)
        recipe.write_text(yaml.safe_dump(settings))
        main(["--config", str(recipe), "--output_dir", str(tmp_path / "out"), "--max_steps", "1"])
        assert not (tmp_path / "no").exists()
        assert history(tmp_path / "out")[0]["rest/coefficient/reasoning"] > 1

    def test_command_shows_its_arguments(self, monkeypatch, capsys):
        from rest_trl import cli

        monkeypatch.setattr(sys, "argv", ["rest-trl", "sft", "--help"])
        with pytest.raises(SystemExit) as error:
            cli.main()
        shown = capsys.readouterr().out
        assert error.value.code == 0
        assert shown.startswith("usage: rest-trl sft")
        assert "--reasoning_weight" in shown and "--reward_funcs" not in shown
