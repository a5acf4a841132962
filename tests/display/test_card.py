import importlib.metadata
import logging
import re
import sys
from functools import partial

import pytest
import torch
import yaml
from datasets import Dataset
from trl import GRPOTrainer

import rest_trl
from rest_trl import ResTGRPOConfig, ResTGRPOTrainer
from rest_trl.lab.display import card as model_card
from rest_trl.lab.display.card import function_name
from rest_trl.runs.arguments import changed_arguments
from rest_trl.tool_calls import SYNTAXES
from rest_trl.train import make_parser, make_trainer


DATASET = Dataset.from_dict({"prompt": ["What is the weather in Paris?", "lunch at 12:30"] * 4})
ARGUMENTS = {
    "max_steps": 2,
    "per_device_train_batch_size": 4,
    "num_generations": 4,
    "max_completion_length": 8,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "use_cpu": True,
    "bf16": False,
    "disable_tqdm": True,
}


def length_reward(completions, **kwargs):
    return [float(len(completion) % 11) for completion in completions]


def flat_rule(mask, scale=1.0, **kwargs):
    return scale * torch.ones_like(mask, dtype=torch.float32)


class Rule:
    def __call__(self, mask, **kwargs):
        return flat_rule(mask)


def trainer_of(model, tokenizer, path, peft_config=None, rule=None, **changes):
    return ResTGRPOTrainer(
        model,
        length_reward,
        ResTGRPOConfig(str(path), **(ARGUMENTS | changes)),
        train_dataset=DATASET,
        processing_class=tokenizer,
        peft_config=peft_config,
        coefficients=rule,
    )


def card_of(trainer, **arguments):
    trainer.create_model_card(**arguments)
    with open(f"{trainer.args.output_dir}/README.md", encoding="utf-8") as file:
        return file.read()


def metadata(card):
    return yaml.safe_load(card.split("---\n")[1])


def section(card, title):
    return re.search(rf"^#+ {title}$(.*?)(?=^#+ |\Z)", card, re.MULTILINE | re.DOTALL)[1]


def rows(text):
    return [[cell.strip() for cell in line.strip()[1:-1].split("|")] for line in text.splitlines() if line[:1] == "|"][
        2:
    ]


class TestMetadata:
    def test_names_hub_ids(self, model, tokenizer, tmp_path):
        model.config._name_or_path = "Qwen/Qwen3-1.7B"
        card = card_of(trainer_of(model, tokenizer, tmp_path), model_name="mine", dataset_name="me/calls", tags="x")
        assert metadata(card) == {
            "base_model": "Qwen/Qwen3-1.7B",
            "datasets": "me/calls",
            "library_name": "transformers",
            "model_name": "mine",
            "pipeline_tag": "text-generation",
            "tags": ["generated_from_trainer", "grpo", "rest", "trl", "x"],
        }
        assert "[Qwen/Qwen3-1.7B](https://huggingface.co/Qwen/Qwen3-1.7B)" in card
        assert "[me/calls](https://huggingface.co/datasets/me/calls)" in card

    def test_leaves_out_paths(self, model, tokenizer, tmp_path):
        base = tmp_path / "home" / "base"
        model.save_pretrained(base)
        model.config._name_or_path = str(base)
        trainer = trainer_of(model, tokenizer, tmp_path / "out", model_init_kwargs={"x": f"{base}/config.json"})
        card = card_of(trainer, dataset_name=str(tmp_path / "train.jsonl"))
        assert str(tmp_path) not in card
        assert "`base`" in card and "`train.jsonl`" in card
        assert not {"base_model", "datasets"} & metadata(card).keys()


class TestRegions:
    def test_are_the_last_ones(self, model, tokenizer, tmp_path):
        trainer = trainer_of(model, tokenizer, tmp_path, tool_call_syntax="hermes")
        assert "### Regions" not in card_of(trainer) and "Not trained yet" in card_of(trainer)
        trainer.train()
        card = card_of(trainer)
        assert "State after step 2 of 2, 100% of the curriculum" in card
        last = [log for log in trainer.state.log_history if "rest/progress" in log][-1]
        table = rows(section(card, "Regions"))
        assert [row[0] for row in table] == ["format", "tool_name", "parameters", "reasoning", "response"]
        known = 0
        for name, entropy, share, coefficient in table:
            if f"rest/entropy/{name}" in last:
                known += 1
                assert entropy == f"{last[f'rest/entropy/{name}']:.3f}"
                assert coefficient == f"{last[f'rest/coefficient/{name}']:.3f}"
            assert 0 <= float(share) <= 1
        assert known and sum(float(share) for _, _, share, _ in table) == pytest.approx(1, abs=0.003)

    def test_survive_a_resume(self, model, tokenizer, tmp_path):
        trainer = trainer_of(model, tokenizer, tmp_path, save_strategy="steps", save_steps=1)
        trainer.train()
        before = card_of(trainer)
        resumed = trainer_of(model, tokenizer, tmp_path, max_steps=3)
        resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
        after = card_of(resumed)
        assert "State after step 3 of 3" in after and "steps up to 3" in after
        curve = rows(section(after, "Curves"))
        assert len(curve) == 3 and curve[:2] == rows(section(before, "Curves"))
        shares = [row[2] for row in rows(section(after, "Regions"))]
        assert shares == [f"{share:.3f}" for share in resumed.region_statistics.shares[1:]]


class TestCurves:
    @pytest.fixture
    def trained(self, model, tokenizer, tmp_path):
        trainer = trainer_of(model, tokenizer, tmp_path)
        trainer.state.log_history = [
            {"step": step, "rest/progress": 0.0, "reward": step / 10, "rewards/length_reward/mean": 1.0}
            for step in range(1, 51)
        ]
        return trainer

    def test_are_a_picture_and_a_table(self, trained, tmp_path):
        assert "(curves.png)" in card_of(trained)
        assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")

    def test_are_a_table_where_the_picture_fails(self, trained, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
        card = card_of(trained)
        assert "curves.png" not in card and not (tmp_path / "curves.png").exists()
        table = rows(section(card, "Curves"))
        assert [row[0] for row in table] == ["1", "11", "21", "30", "40", "50"]
        assert table[-1] == ["50", "5.000", "1.000"]


class TestAdapters:
    """Training with any adapter reaches its checkpoint, and the card says how that is served."""

    def trained(self, model, tokenizer, path, config):
        model.config._name_or_path = "Qwen/Qwen3-1.7B"
        trainer = trainer_of(model, tokenizer, path, config, max_steps=1, save_strategy="steps", save_steps=1)
        trainer.train()
        assert (path / "checkpoint-1" / "adapter_config.json").exists()
        return (path / "README.md").read_text(encoding="utf-8")

    def test_ia3_is_merged_before_it_is_served(self, model, tokenizer, tmp_path):
        peft = pytest.importorskip("peft")
        config = peft.IA3Config(
            target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"], task_type="CAUSAL_LM"
        )
        card = self.trained(model, tokenizer, tmp_path, config)
        serve = section(card, "Serve with vLLM")
        assert "An adapter (IA3) of [Qwen/Qwen3-1.7B]" in card and metadata(card)["library_name"] == "peft"
        assert "lora" not in metadata(card)["tags"] and "--enable-lora" not in serve
        assert "this one is IA3" in serve and "merge_and_unload()" in serve and "vllm serve merged" in serve

    def test_prompt_tuning_is_not_served(self, model, tokenizer, tmp_path):
        peft = pytest.importorskip("peft")
        config = peft.PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM")
        card = self.trained(model, tokenizer, tmp_path, config)
        assert "An adapter (prompt tuning) of" in card and "vllm serve" not in card
        assert "vLLM cannot serve an adapter of this kind (prompt tuning)" in card

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [({"use_dora": True}, "no DoRA"), ({"r": 513}, "no LoRA adapter of rank 513"), ({"bias": "all"}, "biases")],
    )
    def test_lora_that_vllm_refuses_is_merged(self, changes, reason, model, tokenizer, tmp_path):
        peft = pytest.importorskip("peft")
        config = peft.LoraConfig(**{"r": 8, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"} | changes)
        serve = section(card_of(trainer_of(model, tokenizer, tmp_path, config)), "Serve with vLLM")
        assert reason in serve and "vllm serve merged" in serve and "--enable-lora" not in serve

    def test_the_largest_rank_of_a_pattern_counts(self, model, tokenizer, tmp_path):
        peft = pytest.importorskip("peft")
        config = peft.LoraConfig(r=8, rank_pattern={"q_proj": 40}, target_modules=["q_proj"], task_type="CAUSAL_LM")
        assert "--max-lora-rank 64" in card_of(trainer_of(model, tokenizer, tmp_path, config))


class TestCredit:
    @pytest.mark.parametrize(
        ("credit", "words"), [("region", "still undecided"), ("local", "its own segment decides")]
    )
    def test_is_told_where_it_is_not_grpos(self, credit, words, model, tokenizer, tmp_path):
        trainer = trainer_of(model, tokenizer, tmp_path, max_steps=1, credit=credit)
        trainer.train()
        card = card_of(trainer)
        assert f"Credit: `{credit}`" in card and words in card and f"credit: {credit}" in card

    def test_of_grpo_is_not_mentioned(self, model, tokenizer, tmp_path):
        trainer = trainer_of(model, tokenizer, tmp_path, max_steps=1)
        trainer.train()
        card = card_of(trainer)
        assert "Credit:" not in card and "Branches:" not in card and "Gold call:" not in card

    def test_tells_of_branches(self, model, tokenizer, tmp_path):
        trainer = trainer_of(model, tokenizer, tmp_path, max_steps=1, branch_size=2)
        trainer.train()
        assert "Branches: every 2 completions share a reasoning." in card_of(trainer)

    def test_tells_of_the_gold_call_as_does_the_heading_of_the_curves(self, model, tokenizer, tmp_path, monkeypatch):
        headings = []
        monkeypatch.setattr(model_card, "plot_curves", lambda *_, name, **__: headings.append(name))
        trainer = trainer_of(model, tokenizer, tmp_path, max_steps=1, tool_call_syntax="hermes", gold_weight=0.5)
        trainer.train_dataset = trainer.train_dataset.add_column("solution", ["no call"] * len(DATASET))
        trainer.train()
        card = card_of(trainer)
        assert "Gold call: the log-likelihood" in card and "with weight 0.5." in card
        assert headings[-1].endswith("gold_weight 0.5")


class TestCoefficients:
    @pytest.mark.parametrize("name", ["entropy", "released", "uniform"])
    def test_of_a_preset_have_its_name(self, name, model, tokenizer, tmp_path):
        trainer = trainer_of(model, tokenizer, tmp_path, max_steps=1, coefficients=name)
        trainer.train()
        card = card_of(trainer)
        assert f"Coefficients: `{name}`" in card and "was a function" not in card
        assert ("% of the curriculum" in card) == (name == "entropy")

    @pytest.mark.parametrize(
        ("rule", "name"),
        [
            (flat_rule, "test_card.flat_rule"),
            (lambda mask, **kwargs: torch.ones_like(mask, dtype=torch.float32), "test_card.TestCoefficients.<lambda>"),
            (partial(flat_rule, scale=0.5), "test_card.flat_rule(scale=0.5)"),
            (Rule(), "test_card.Rule"),
        ],
        ids=["function", "lambda", "partial", "object"],
    )
    def test_of_a_function_have_its_name(self, rule, name, model, tokenizer, tmp_path):
        trainer = trainer_of(model, tokenizer, tmp_path, rule=rule, max_steps=1)
        trainer.train()
        card = card_of(trainer)
        prefix = __name__.removesuffix("test_card")
        assert f"Coefficients: `{prefix}{name}`" in card and f"coefficients `{prefix}{name}` (not those of" in card
        assert "`entropy`" not in card and "% of the curriculum" not in card
        assert "the argument `coefficients` of the trainer was a function" in card

    def test_of_a_dotted_path_are_in_the_recipe(self, model, tokenizer, tmp_path):
        path = f"{__name__}.flat_rule"
        card = card_of(trainer_of(model, tokenizer, tmp_path, coefficients=path))
        assert f"coefficients: {path}" in section(card, "Recipe") and f"coefficients `{path}`" in card
        assert "was a function" not in card

    def test_of_a_script_are_not_in_main(self):
        script_rule = type(flat_rule)(flat_rule.__code__, {"__name__": "__main__"})
        assert function_name(script_rule) == "flat_rule"


class TestFailures:
    """Whatever goes wrong in a card, there is one warning with the cause, and the checkpoint after it."""

    @pytest.fixture
    def warnings(self, caplog):
        caplog.set_level(logging.WARNING, "rest_trl")
        return lambda: [
            record.getMessage() for record in caplog.records if record.name.startswith("rest_trl.lab.display")
        ]

    def train(self, model, tokenizer, path):
        trainer = trainer_of(model, tokenizer, path, max_steps=1, save_strategy="steps", save_steps=1)
        trainer.train()
        assert (path / "checkpoint-1" / "model.safetensors").exists()
        assert not (path / "README.tmp").exists()
        return (path / "README.md").read_text(encoding="utf-8")

    def test_without_metadata_of_distributions_nothing_is_missing(
        self, model, tokenizer, tmp_path, monkeypatch, warnings
    ):
        def missing(name):
            raise importlib.metadata.PackageNotFoundError(name)

        trainer = trainer_of(model, tokenizer, tmp_path)
        GRPOTrainer.create_model_card(trainer)
        monkeypatch.setattr(importlib.metadata, "version", missing)
        model_card.write_model_card(trainer, lambda *arguments: None, None, None, None)
        card = (tmp_path / "README.md").read_text(encoding="utf-8")
        assert f"rest-trl {rest_trl.__version__}." in card and f"- rest-trl: {rest_trl.__version__}" in card
        assert not warnings()

    def test_broken_matplotlib_costs_the_picture_only(self, model, tokenizer, tmp_path, monkeypatch, warnings):
        def broken(logs, path, name):
            raise ImportError("libfreetype.so.6:\ncannot open shared object file")

        monkeypatch.setattr(model_card, "plot_curves", broken)
        card = self.train(model, tokenizer, tmp_path)
        assert "### Regions" in card and "curves.png" not in card
        assert warnings() == [
            "The picture of the curves was not written, and the run goes on without it: ImportError: "
            "libfreetype.so.6: cannot open shared object file"
        ]

    def test_broken_template_costs_the_card_only(self, model, tokenizer, tmp_path, monkeypatch, warnings):
        (tmp_path / "template.md").write_text("---\n{{ card_data }}\n---\n{{ 1 / 0 }}")
        monkeypatch.setattr(model_card, "_TEMPLATE", tmp_path / "template.md")
        card = self.train(model, tokenizer, tmp_path)
        assert "vonwerra2020trl" in card  # TRL's
        (warning,) = warnings()
        assert warning.startswith("The model card was not written") and "ZeroDivisionError" in warning

    def test_full_disk_costs_the_card_only(self, model, tokenizer, tmp_path, monkeypatch, warnings):
        def save(card, path):
            path.write_text("---")
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(model_card.ModelCard, "save", save)
        trainer = trainer_of(model, tokenizer, tmp_path)
        (tmp_path / "README.md").write_text("---\ntags: [trl]\n---\nbefore")
        model_card.write_model_card(trainer, lambda *arguments: None, None, None, None)
        assert (tmp_path / "README.md").read_text().endswith("before") and not (tmp_path / "README.tmp").exists()
        (warning,) = warnings()
        assert "No space left on device" in warning


class TestServe:
    @pytest.mark.parametrize("name", sorted(SYNTAXES))
    def test_names_the_parser_of_vllm(self, name, model, tokenizer, tmp_path):
        serve = section(card_of(trainer_of(model, tokenizer, tmp_path, tool_call_syntax=name)), "Serve with vLLM")
        parser = SYNTAXES[name].vllm_parser
        if parser is None:
            assert "--tool-call-parser" not in serve and f"vLLM has no tool parser for `{name}`" in serve
        else:
            assert f"--enable-auto-tool-choice --tool-call-parser {parser}\n" in serve.replace(" \\", "")

    def test_reads_reasoning_where_the_template_thinks(self, model, tokenizer, tmp_path):
        serve = section(card_of(trainer_of(model, tokenizer, tmp_path)), "Serve with vLLM")
        assert "--reasoning-parser qwen3" in serve

    @pytest.mark.parametrize(("rank", "served"), [(8, None), (16, None), (24, 32)])
    def test_puts_an_adapter_on_its_base(self, rank, served, model, tokenizer, tmp_path):
        peft = pytest.importorskip("peft")
        model.config._name_or_path = "Qwen/Qwen3-1.7B"
        config = peft.LoraConfig(r=rank, target_modules="all-linear", task_type="CAUSAL_LM")
        card = card_of(trainer_of(model, tokenizer, tmp_path, config), model_name="mine")
        serve = section(card, "Serve with vLLM")
        assert "vllm serve Qwen/Qwen3-1.7B" in serve and "--enable-lora --lora-modules mine=mine" in serve
        assert ("--max-lora-rank" in serve) == (served is not None)
        assert served is None or f"--max-lora-rank {served}" in serve
        assert metadata(card)["library_name"] == "peft" and "AutoPeftModelForCausalLM" in card


class TestRecipe:
    def test_can_be_run_again(self, tmp_path):
        recipe = ["--config", "recipes/demo.yaml", "--learning_rate", "1e-4", "--output_dir", str(tmp_path / "out")]
        arguments = make_parser().parse_args_and_config(recipe)
        trainer = make_trainer(*arguments)
        text = re.search(r"```yaml\n(.*?)```", card_of(trainer), re.DOTALL)[1]
        (tmp_path / "again.yaml").write_text(text)
        again = make_parser().parse_args_and_config(["--config", str(tmp_path / "again.yaml")])
        assert yaml.safe_load(text)["learning_rate"] == 1e-4
        assert changed_arguments(*again) == changed_arguments(*make_parser().parse_args_and_config(recipe))

    def test_is_of_the_trainer_without_the_program(self, model, tokenizer, tmp_path):
        text = section(card_of(trainer_of(model, tokenizer, tmp_path, entropy_decay=0.5)), "Recipe")
        assert "entropy_decay: 0.5" in text and "a script gave" in text


class TestText:
    def test_says_grpo_where_it_was(self, model, tokenizer, tmp_path):
        assert "with GRPO (`coefficients: uniform`" in card_of(
            trainer_of(model, tokenizer, tmp_path, coefficients="uniform")
        )

    def test_cites_paper_and_trl(self, model, tokenizer, tmp_path):
        citation = section(card_of(trainer_of(model, tokenizer, tmp_path)), "Citation")
        assert "lin2026rest" in citation and "vonwerra2020trl" in citation

    def test_is_whole(self, model, tokenizer, tmp_path):
        card = card_of(trainer_of(model, tokenizer, tmp_path))
        assert "None" not in card and "{{" not in card.split("## Citation")[0]
        assert card.count("```") % 2 == 0
