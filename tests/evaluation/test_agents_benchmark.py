import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from rest_trl.lab.evaluation.agents_benchmark import TinyAgents
from rest_trl.lab.evaluation.benchmark import get_benchmark
from rest_trl.lab.evaluation.evaluate import main
from rest_trl.lab.evaluation.generation import Completion, prompt_token_ids
from rest_trl.lab.evaluation.summary import evaluate, mean_cell, read_scores
from rest_trl.lab.intervals import mean_interval
from rest_trl.lab.tiny import TINY_AGENTS, TINY_MODELS
from rest_trl.lab.tiny.agents import Task
from rest_trl.lab.tiny.agents.dialogues import play


SIZE = 12
SETTINGS = {"model": "a policy", "adapter": None}


class Policy:
    """Writes the plan of every task, or what `spoil` makes of it; a turn of which it makes None is not generated."""

    def __init__(self, tokenizer, spoil=lambda index, turn, text: text):
        self._tokenizer, self._spoil = tokenizer, spoil
        self.asked = 0

    def generate(self, prompts):
        tasks = TinyAgents.tasks()
        for id in prompts:
            index, turn = int(id.split("_")[1].split("/")[0].split(".")[0]), int(id.rpartition(".")[2])
            solutions = [step.solution for step in play(Task(**json.loads(tasks[index].row["task"])))]
            text = self._spoil(index, turn, (solutions + ["Done."] * 20)[turn])
            self.asked += 1
            if text is not None:
                yield Completion(id, self._tokenizer(text).input_ids, text, False)


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(TINY_MODELS[TINY_AGENTS])


def run(tokenizer, path, policy, **options):
    benchmark = TinyAgents(TinyAgents.tasks()[:SIZE], tokenizer, **options)
    return evaluate(benchmark, policy, Path(path), SETTINGS)


class TestTinyAgents:
    def test_of_the_plans_is_all_right(self, tokenizer, tmp_path):
        summary = run(tokenizer, tmp_path, Policy(tokenizer))
        assert summary["overall"]["success"]["accuracy"] == 1 and not summary["missing"]
        scores = read_scores(tmp_path)
        assert {score.subset for score in scores} == summary["subsets"].keys()
        for score, task in zip(scores, TinyAgents.tasks(), strict=False):
            plan = Task(**json.loads(task.row["task"])).plan
            assert score.calls == [*plan, []] and score.cluster == score.id == task.id
            assert score.measures == {"steps": len(plan) + 1, "invalid": 0, "tokens": len(score.completion_ids)}

    def test_says_why_a_dialogue_is_wrong(self, tokenizer, tmp_path):
        def spoil(index, turn, text):
            call = '<tool_call>\n{"name": "get_owner", "arguments": {"ticket": 55}}\n</tool_call>'
            return {0: "Done.", 1: call}.get(index, text)

        summary = run(tokenizer, tmp_path, Policy(tokenizer, spoil), max_turns=6)
        first, second, third, *_ = read_scores(tmp_path)
        assert (first.why, second.why, third.why) == ("calls [[]]", "broken off after 6 turns", None)
        assert second.measures == {"steps": 6, "invalid": 6, "tokens": len(second.completion_ids)}
        assert summary["overall"]["success"]["accuracy"] == pytest.approx(1 - 2 / SIZE)

    def test_counts_what_is_not_generated_as_wrong_and_in_no_mean(self, tokenizer, tmp_path):
        policy = Policy(tokenizer, lambda index, turn, text: None if index == 0 else text)
        summary = run(tokenizer, tmp_path, policy)
        scores = read_scores(tmp_path)
        assert summary["missing"] == ["task_0"] and scores[0].missing
        assert summary["overall"]["success"]["accuracy"] == pytest.approx(1 - 1 / SIZE)
        steps = [score.measures["steps"] for score in scores[1:]]
        assert summary["overall"]["steps"]["mean"] == pytest.approx(sum(steps) / len(steps))

    def test_goes_on_where_it_was_interrupted(self, tokenizer, tmp_path):
        first = run(tokenizer, tmp_path / "whole", Policy(tokenizer))

        class Interrupted(Policy):
            def generate(self, prompts):
                for completion in super().generate(prompts):
                    if self.asked > SIZE + 3:
                        raise KeyboardInterrupt
                    yield completion

        with pytest.raises(KeyboardInterrupt):
            run(tokenizer, tmp_path / "broken", Interrupted(tokenizer))
        second = run(tokenizer, tmp_path / "broken", Policy(tokenizer))
        assert second["reused"] == SIZE + 3 and second["overall"] == first["overall"]

    def test_half_a_surrogate_pair_ends_neither_the_run_nor_one_that_goes_on(self, tokenizer, tmp_path):
        text = '<tool_call>\n{"name": "get_owner", "arguments": {"ticket": "\\ud83d"}}\n</tool_call>'

        class Tokenizing(Policy):
            def generate(self, prompts):
                assert prompt_token_ids(prompts, self._tokenizer, None).keys() == prompts.keys()
                for completion in super().generate(prompts):
                    if self.asked > SIZE + 1 and self._stops:
                        raise KeyboardInterrupt
                    yield completion

        def policy(stops):
            policy = Tokenizing(tokenizer, lambda index, turn, solution: solution if (index, turn) != (0, 0) else text)
            policy._stops = stops
            return policy

        with pytest.raises(KeyboardInterrupt):
            run(tokenizer, tmp_path, policy(stops=True))
        summary = run(tokenizer, tmp_path, policy(stops=False))
        first, *_ = read_scores(tmp_path)
        assert first.calls[0] == [{"name": "get_owner", "arguments": {"ticket": "\ud83d"}}]
        assert first.measures["invalid"] == 1 and summary["reused"] == SIZE + 1

    def test_trials_of_a_task_form_a_cluster(self, tokenizer, tmp_path):
        summary = run(tokenizer, tmp_path, Policy(tokenizer), trials=3)
        scores = read_scores(tmp_path)
        assert (summary["overall"]["n"], summary["overall"]["success"]["clusters"]) == (3 * SIZE, SIZE)
        assert [score.id for score in scores[:3]] == ["task_0/0", "task_0/1", "task_0/2"]
        assert {score.cluster for score in scores[:3]} == {"task_0"}

    def test_is_run_from_the_command_line(self, tmp_path, capsys):
        summary = main(
            "--benchmark tiny/agents --model_name_or_path tiny/agents --max_new_tokens 48 --limit 4 --trials 2 "
            f"--temperature 1 --dtype float32 --output_dir {tmp_path}".split()
        )
        assert (summary["overall"]["n"], summary["trials"], summary["limit"]) == (8, 2, 4)
        assert 1 <= summary["overall"]["steps"]["mean"] <= 10
        shown = capsys.readouterr().out
        assert all(name in shown for name in ("success", *TinyAgents.measures))
        assert get_benchmark("tiny/agents") is TinyAgents


class TestMeans:
    def test_by_clusters_are_wider_where_a_cluster_agrees(self):
        values = [1.0, 1.0, 4.0, 4.0, 2.0, 2.0]
        alone, together = (mean_interval(values, list(names)) for names in ("abcdef", "aabbcc"))
        assert alone.estimate == together.estimate == pytest.approx(7 / 3)
        assert together.high - together.low > alone.high - alone.low

    def test_of_one_cluster_have_no_bounds(self):
        interval = mean_interval([1.0, 3.0], ["a", "a"])
        assert (interval.estimate, interval.low, interval.high) == (2.0, -float("inf"), float("inf"))
        assert mean_cell({"mean": 2.0}) == "2.0" and mean_cell({"mean": 2.0, "low": 1.0, "high": 3.0}) == "2.0 ± 1.0"
