import json
import re
import sys
from functools import partial

import pandas
import pytest
from datasets import Dataset
from test_native_tools import GOLD, make_trainer
from transformers import AutoTokenizer
from trl import GRPOTrainer

from rest_trl import ResTGRPOConfig, ResTGRPOTrainer, cli
from rest_trl.lab.display.completion_files import read_completions
from rest_trl.lab.tiny import TINY_MODEL_DIR
from rest_trl.tool_calls import Part, Region
from rest_trl.train import main


TINY = ("--model_name_or_path", "tiny")
COMPLETION = (
    '<think>\nfünf < 6 & "7"\n</think>\n<tool_call>\n'
    '{"name": "get_weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
)


def run(monkeypatch, *arguments):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", ["rest-trl", "inspect", *map(str, arguments)])
    cli.main()


@pytest.fixture
def text_file(tmp_path):
    (tmp_path / "completion.txt").write_text(COMPLETION)
    return tmp_path / "completion.txt"


class TestMain:
    def test_shows_text_and_says_what_is_not_known(self, text_file, monkeypatch, capsys):
        run(monkeypatch, text_file, *TINY)
        out = capsys.readouterr().out
        assert "Token ids were made from text" in out and "syntax hermes" in out
        assert "get_weather" in out and "tool_name: 2 tokens\n" in out
        assert "Coefficients are not known: the rule entropy needs the region entropies" in out

    @pytest.mark.parametrize(
        ("arguments", "shown"),
        [
            (["--coefficients", "uniform"], "tool_name: 2 tokens, coefficient 1.000"),
            (["--weights", "0", "1", "0", "0", "0"], " tokens, coefficient 0.000"),
            (["--coefficients", "released", "--step", "100"], "Coefficients: released at rollout 100."),
        ],
    )
    def test_shows_the_coefficients_of_a_rule(self, arguments, shown, text_file, monkeypatch, capsys):
        run(monkeypatch, text_file, *TINY, *arguments)
        assert shown in capsys.readouterr().out

    def test_takes_the_name_of_a_recipe(self, text_file, monkeypatch, capsys):
        run(monkeypatch, text_file, *TINY, "--config", "demo", "--coefficients", "released")
        assert "Coefficients: released at rollout 0." in capsys.readouterr().out

    def test_reads_ids_texts_and_parquets(self, tmp_path, monkeypatch, capsys):
        (tmp_path / "ids.jsonl").write_text(json.dumps({"completion_ids": [5, 6, 7]}) + "\n")
        pandas.DataFrame({"step": [3], "completion": [COMPLETION]}).to_parquet(tmp_path / "completions.parquet")
        messages = pandas.DataFrame({"completion": [[{"role": "assistant", "content": COMPLETION}]]})
        messages.to_parquet(tmp_path / "messages.parquet")
        for name in ("ids.jsonl", "completions.parquet", "messages.parquet"):
            run(monkeypatch, tmp_path / name, *TINY)
        out = capsys.readouterr().out
        assert "Completion 0, step 3" in out and "Tokens are those of the file" in out
        assert out.count('{"name": "get_weather"') == 2

    def test_shows_text_that_looks_like_markup_as_it_is(self, tmp_path, monkeypatch, capsys):
        row = {"completion": "[INST] a [/INST] :smile:", "prompt": "[/b]", "step": "[/INST]"}
        path = tmp_path / "[/x].jsonl"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(row) + "\n")
        run(monkeypatch, path, *TINY, "--html", path.with_suffix(".html"))
        out = capsys.readouterr().out
        assert "[INST] a [/INST] :smile:" in out and "step [/INST]" in out and "[/b]" in out
        assert f"Page: {path.with_suffix('.html')}" in out.replace("\n", "")

    def test_writes_a_page(self, text_file, tmp_path, monkeypatch, capsys):
        run(monkeypatch, text_file, *TINY, "--html", tmp_path / "page.html")
        page = (tmp_path / "page.html").read_text(encoding="utf-8")
        assert "<h1>Completions of completion.txt</h1>" in page and "Token ids were made from text" in page
        assert "Page: " in capsys.readouterr().out and not (tmp_path / "page.tmp").exists()

    def test_passes_on_how_to_load_the_tokenizer(self, text_file, monkeypatch):
        given = {}

        def from_pretrained(name, **kwargs):
            given.update(kwargs, name=name)
            raise OSError("not here")

        monkeypatch.setattr("rest_trl.runs.inputs.AutoTokenizer.from_pretrained", from_pretrained)
        with pytest.raises(SystemExit, match="not here"):
            run(
                monkeypatch,
                text_file,
                "--model_name_or_path",
                "org/model",
                "--model_revision",
                "v2",
                "--trust_remote_code",
            )
        assert given == {"name": "org/model", "revision": "v2", "trust_remote_code": True}

    def test_a_model_that_is_not_there_is_one_line(self, text_file, monkeypatch):
        with pytest.raises(SystemExit, match="error: there is no model directory /no/such: check the path"):
            run(monkeypatch, text_file, "--model_name_or_path", "/no/such")

    @pytest.mark.parametrize(
        ("name", "content", "arguments", "message"),
        [
            ("missing.txt", None, [], "missing.txt: no such file or directory: check the path"),
            ("rows.jsonl", '{"text": "x"}\n', [], "needs a column completion_ids, regions or completion"),
            ("a.txt", "a", ["--coefficients", "no.such_rule"], "cannot be imported"),
            ("a.txt", "a", ["--checkpoint", "nowhere"], "nowhere holds no trainer_state.json"),
            ("a.txt", "a", ["--config", "nowhere.yaml"], "there is no file nowhere.yaml, and no recipe of this name"),
            ("a.txt", "a", ["--step", "100"], "--step has no effect .*: give --coefficients released"),
            ("a.txt", "a", ["--step", "0", "--coefficients", "uniform"], "--step has no effect"),
            ("a.txt", "a", ["--step", "9", "--weights", *"01000"], "--step has no effect"),
            ("a.txt", "a", ["--weights", *"01000", "--html", "no/such/page.html"], "cannot write no/such/page.html"),
        ],
    )
    def test_what_is_wrong_is_one_line(self, name, content, arguments, message, tmp_path, monkeypatch):
        if content is not None:
            (tmp_path / name).write_text(content)
        with pytest.raises(SystemExit, match=message) as error:
            run(monkeypatch, tmp_path / name, *TINY, *arguments)
        assert str(error.value).startswith("rest-trl inspect: error: ") and "\n" not in str(error.value)


def double_rule(mask, **kwargs):
    return 2.0 * mask


def masking_rule(mask, entropies, **kwargs):
    return mask * (entropies > 0.1).float()


RUN = {
    "model_name_or_path": "tiny",
    "dataset_name": "tiny",
    "max_steps": 3,
    "learning_rate": 1e-3,
    "per_device_train_batch_size": 8,
    "num_generations": 4,
    "max_completion_length": 64,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "use_cpu": True,
    "bf16": False,
    "disable_tqdm": True,
    "log_completions": True,
    "num_completions_to_print": 1,
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The directory of a run, and the ids and coefficients that its last loss used."""
    path = tmp_path_factory.mktemp("run")
    used = []
    compute_loss = GRPOTrainer.compute_loss

    def keep(self, model, inputs, *args, **kwargs):
        loss = compute_loss(self, model, inputs, *args, **kwargs)  # it weighs the advantages after its forward pass
        used[:] = inputs["completion_ids"], inputs["advantages"]
        return loss

    arguments = RUN | {"output_dir": path}
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(GRPOTrainer, "compute_loss", keep)
        main([text for name, value in arguments.items() for text in (f"--{name}", str(value))])
    return path, used


class TestRun:
    """What a run has stored is what its loss has used."""

    def test_shows_the_coefficients_of_the_loss(self, trained, tokenizer):
        path, (ids, reshaped) = trained
        items = read_completions(path, tokenizer, 99)
        stored = sorted((item.completion_ids, item.scores["advantage"], item.coefficients) for item in items)
        used = sorted(zip(ids.tolist(), reshaped.tolist(), strict=True))
        assert len(stored) == len(used) == 8 and len({value for *_, row in stored for value in row}) > 2
        for (stored_ids, advantage, coefficients), (used_ids, values) in zip(stored, used, strict=True):
            length = len(stored_ids)
            assert used_ids[:length] == stored_ids
            assert values[:length] == pytest.approx([advantage * value for value in coefficients], rel=1e-5)
            assert not any(values[length:])

    def test_shows_prompt_reward_region_and_coefficient(self, trained, monkeypatch, capsys):
        run(monkeypatch, trained[0], *TINY, "--limit", "1")
        out = capsys.readouterr().out
        assert "Tokens and regions are those that training stored." in out
        assert "Coefficients: those that training stored" in out and "Completion 0, step 3" in out
        assert "<|im_start|>user" in out and "layout_reward " in out and "advantage " in out
        assert " tokens, coefficient " in out

    def test_takes_the_tokenizer_of_the_run(self, trained, text_file, monkeypatch, capsys):
        for path in (trained[0], trained[0] / "completions" / "completions_00003.parquet"):
            run(monkeypatch, path, "--limit", "1")
            assert "Completion 0, step 3" in capsys.readouterr().out
        with pytest.raises(SystemExit, match="holds no tokenizer: name the policy with --model_name_or_path"):
            run(monkeypatch, text_file)

    def test_shows_the_gold_of_every_completion_and_every_step(self, trained, tmp_path, monkeypatch, capsys):
        run(monkeypatch, trained[0], "--limit", "2", "--all_steps", "--html", tmp_path / "page.html")
        out = capsys.readouterr().out
        titles = [f"Completion {number}, step {step}" for step in (1, 2, 3) for number in (0, 1)]
        assert [title in out for title in titles] == [True] * 6
        assert len(re.findall("Gold, .*:", out)) == 6 and re.search(r"Exact: \d of \d golds", out)
        page = (tmp_path / "page.html").read_text(encoding="utf-8")
        assert page.count("<h3>Gold</h3>") == 6 and not re.search(r"\bnan\b", page)

    def test_counts_no_rollouts_for_stored_coefficients(self, trained, monkeypatch):
        with pytest.raises(SystemExit, match="error: --step has no effect"):
            run(monkeypatch, trained[0], *TINY, "--step", "100")

    @pytest.mark.parametrize("rule", ["released", "uniform", f"{__name__}.double_rule"])
    def test_shows_another_rule_on_the_stored_regions(self, rule, trained, monkeypatch, capsys):
        run(monkeypatch, trained[0], *TINY, "--coefficients", rule, "--limit", "1")
        out = capsys.readouterr().out
        assert f"Coefficients: {rule} at rollout 0." in out and "those that training stored." in out

    def test_takes_the_region_entropies_of_a_checkpoint(self, trained, text_file, monkeypatch, capsys):
        run(monkeypatch, text_file, *TINY, "--checkpoint", trained[0])
        out = capsys.readouterr().out
        assert "entropy with the region entropies of step 3, 100% of the training" in out
        assert "coefficient " in out.split("get_weather")[0]

    def test_prints_no_ids_in_the_table_of_trl(self, trained):
        table = pandas.read_parquet(trained[0] / "completions" / "completions_00003.parquet")
        assert not {"completion_ids", "part_ids", "coefficients"} & set(table)


class TestExactCalls:
    """`truncated` in a file says that a completion was cut off; else its ids do, if the file has them."""

    GOLD = COMPLETION.partition("</think>\n")[2]

    def shown(self, rows, tmp_path, monkeypatch, capsys):
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        run(monkeypatch, tmp_path / "rows.jsonl", *TINY, "--html", tmp_path / "page.html")
        return capsys.readouterr().out, (tmp_path / "page.html").read_text(encoding="utf-8")

    def test_what_was_cut_off_or_is_unreadable_is_never_exact(self, tmp_path, monkeypatch, capsys):
        ids = AutoTokenizer.from_pretrained(TINY_MODEL_DIR)(COMPLETION).input_ids
        end = AutoTokenizer.from_pretrained(TINY_MODEL_DIR).eos_token_id
        rows = [
            {"completion": COMPLETION},
            {"completion": COMPLETION, "truncated": True},
            {"completion_ids": [*ids, end]},
            {"completion_ids": ids},
            {"completion_ids": ids, "truncated": False},
            {"completion": COMPLETION + "<tool_call>"},
        ]
        out, _ = self.shown([row | {"solution": self.GOLD} for row in rows], tmp_path, monkeypatch, capsys)
        verdicts = re.findall("Gold, (.*):", out)
        cut = "wrong calls, cut off"
        assert verdicts == ["exact calls", cut, "exact calls", cut, "exact calls", "wrong calls"]
        assert "Exact: 3 of 6 golds with calls." in out

    def test_golds_with_and_without_calls_are_told_apart(self, tmp_path, monkeypatch, capsys):
        pairs = [(COMPLETION, self.GOLD), ("gibberish", self.GOLD), ("gibberish", "No."), (COMPLETION, "No.")]
        rows = [{"completion": completion, "solution": gold} for completion, gold in pairs]
        out, page = self.shown(rows, tmp_path, monkeypatch, capsys)
        verdicts = ["exact calls", "wrong calls", "rightly no call", "wrong: no call is gold"]
        assert re.findall("Gold, (.*):", out) == verdicts and all(f"{text}</b>" in page for text in verdicts)
        assert "Exact: 1 of 2 golds with calls, 1 of 2 golds without calls" in out
        assert re.findall('data-gold="(.*?)"', page) == ["calls", "calls", "none", "none"] and 'id="gold"' in page

    def test_nobody_knows_for_a_gold_that_cannot_be_read(self, tmp_path, monkeypatch, capsys):
        rows = [{"completion": "x", "solution": "<tool_call>\n{"}]
        out, _ = self.shown(rows, tmp_path, monkeypatch, capsys)
        assert "Gold:" in out and "Exact" not in out

    def test_takes_the_alternatives_of_a_gold(self, tmp_path, monkeypatch, capsys):
        gold = {"text": self.GOLD.replace("Oslo", "Rome"), "alternatives": [{"city": ["Rome", "Oslo"]}]}
        out, _ = self.shown([{"completion": COMPLETION, "solution": gold}], tmp_path, monkeypatch, capsys)
        assert "Gold, exact calls:" in out

    def test_tools_tell_strings_from_numbers_where_the_syntax_does_not(self, tmp_path, monkeypatch, capsys):
        gold = "<tool_call>\n<function=f>\n<parameter=v>\n3.10\n</parameter>\n</function>\n</tool_call>"
        tools = json.dumps([{"name": "f", "parameters": {"properties": {"v": {"type": "string"}}}}])
        row = {"completion": gold.replace("3.10", "3.1"), "solution": gold}
        monkeypatch.setattr(f"{__name__}.TINY", (*TINY, "--tool_call_syntax", "qwen3_coder"))
        out, _ = self.shown([row, row | {"tools": tools}], tmp_path, monkeypatch, capsys)
        assert re.findall("Gold, (.*):", out) == ["exact calls", "wrong calls"]

    def test_a_run_says_which_were_cut_off(self, trained, tokenizer):
        for item in read_completions(trained[0], tokenizer, 99, all_steps=True):
            assert item.truncated == (len(item.completion_ids) == RUN["max_completion_length"])


class TestRunWithTools:
    def test_shows_calls_and_tells_tool_results_from_the_policy(self, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr("test_native_tools.ResTGRPOConfig", partial(ResTGRPOConfig, log_completions=True))
        trainer = make_trainer(tmp_path, [[GOLD, "Sunny."], ["No."]])
        trainer.train()
        (item, other) = read_completions(tmp_path, trainer.processing_class, 2)
        text = trainer.processing_class.decode
        policy = text([i for i, own in zip(item.completion_ids, item.policy, strict=True) if own])
        results = text([i for i, own in zip(item.completion_ids, item.policy, strict=True) if not own])
        assert policy.count("get_weather") == 1 and "Sunny in Oslo" not in policy and "Sunny in Oslo" in results
        assert {Part.TOOL_NAME, Part.PARAMETER_VALUE, Part.NONE} <= set(item.part_ids) and all(other.policy)
        run(monkeypatch, tmp_path, *TINY)
        out = capsys.readouterr().out
        assert "not the policy's: " in out and "tool_name: 2 tokens, coefficient 1.000" in out


class TestRunWithTurnRewards:
    def test_shows_turns_with_their_rewards_and_advantages(self, tmp_path, monkeypatch, capsys):
        def paid(completions, **kwargs):
            return [[1.0, 0.5], [0.0]]

        monkeypatch.setattr("test_native_tools.ResTGRPOConfig", partial(ResTGRPOConfig, log_completions=True))
        config = {"credit": "turn", "scale_rewards": "none", "coefficients": {"scope": "turn"}}
        trainer = make_trainer(tmp_path, [[GOLD, "Sunny."], ["No."]], config, reward_funcs=[paid])
        trainer.train()
        run(monkeypatch, tmp_path, *TINY, "--html", tmp_path / "page.html")
        out = capsys.readouterr().out
        # The other one has earned nothing and stops, so the mean of all others is 0.
        assert "paid 1.000, advantage 1.500, coefficient 1.000" in out
        assert "paid 0.500, advantage 1.500, coefficient 1.000" in out
        assert out.index("Turn 1: ") < out.index("Not the policy's: ") < out.index("Turn 2: ")
        page = (tmp_path / "page.html").read_text(encoding="utf-8")
        assert page.index("Turn 1: ") < page.index('<pre class="other">') < page.index("Turn 2: ")
        assert "paid 0.500, advantage 1.500" in page


class TestRunWithARuleOnEntropies:
    def test_stores_regions_without_coefficients(self, model, tokenizer, tmp_path):
        trainer = ResTGRPOTrainer(
            model,
            lambda completions, **kwargs: [float(len(completion)) for completion in completions],
            ResTGRPOConfig(
                str(tmp_path),
                max_steps=1,
                per_device_train_batch_size=2,
                num_generations=2,
                max_completion_length=4,
                logging_steps=1,
                save_strategy="no",
                report_to="none",
                use_cpu=True,
                bf16=False,
                log_completions=True,
            ),
            train_dataset=Dataset.from_dict({"prompt": ["a", "b"]}),
            processing_class=tokenizer,
            coefficients=masking_rule,
        )
        trainer.train()
        (item, _) = read_completions(tmp_path, tokenizer, 2)
        assert item.coefficients is None and item.part_ids is not None and Region.NONE not in item.part_ids
