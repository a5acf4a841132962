import json

import pandas
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rest_trl.lab.display.completion_files import read_completions, tokens_path
from rest_trl.lab.display.described import Inspected, region_summary
from rest_trl.tool_calls import Region


TEXT = 'One. [TOOL_CALLS][{"name": "f", "arguments": {}}]'


@pytest.fixture(scope="module")
def mistral_tokenizer():
    """Bytes, and Mistral's marker as a special token, which decoded text therefore lacks."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe = Tokenizer(models.BPE({character: index for index, character in enumerate(alphabet)}, []))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.add_special_tokens([AddedToken("[TOOL_CALLS]", special=True), AddedToken("</s>", special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="</s>", split_special_tokens=True)


def jsonl(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


class TestReadCompletions:
    def test_reads_a_marker_as_the_special_token_that_it_is(self, mistral_tokenizer, tmp_path):
        (tmp_path / "completion.txt").write_text(TEXT)
        (item,) = read_completions(tmp_path / "completion.txt", mistral_tokenizer, 1)
        assert mistral_tokenizer.convert_tokens_to_ids("[TOOL_CALLS]") in item.completion_ids
        assert item.from_text and item.prompt is None and item.scores == {}

    def test_reads_ids_as_they_are(self, tokenizer, tmp_path):
        path = jsonl(tmp_path / "ids.jsonl", {"completion_ids": [5, 6], "reward": 1, "prompt": "p", "ok": True})
        (item,) = read_completions(path, tokenizer, 1)
        assert item.completion_ids == [5, 6] and item.policy == [True, True] and not item.from_text
        assert item.prompt == "p" and item.scores == {"reward": 1.0}

    def test_takes_the_column_regions_before_the_text(self, mistral_tokenizer, tmp_path):
        marked = '🟦One.⬜[TOOL_CALLS][{"name": "⬛12 degrees 🟦Cold.'
        rows = {"completion": ["One."], "regions": [marked], "step": [3], "advantage": [0.5]}
        pandas.DataFrame(rows).to_parquet(tmp_path / "table.parquet")
        (item,) = read_completions(tmp_path / "table.parquet", mistral_tokenizer, 1)
        assert mistral_tokenizer.decode(item.completion_ids) == 'One.[TOOL_CALLS][{"name": "12 degrees Cold.'
        tool = [i for i, policy in zip(item.completion_ids, item.policy, strict=True) if not policy]
        assert mistral_tokenizer.decode(tool) == "12 degrees "
        assert item.title == "Completion 0, step 3" and item.scores == {"advantage": 0.5}

    def test_takes_tool_results_for_no_words_of_the_policy(self, tokenizer, tmp_path):
        messages = [
            {"role": "assistant", "content": "ab"},
            {"role": "tool", "content": [{"type": "text", "text": "cd"}]},
            {"role": "assistant", "content": "ef"},
        ]
        prompt = [{"role": "user", "content": "hi"}]
        path = jsonl(tmp_path / "messages.jsonl", {"completion": messages, "prompt": prompt})
        (item,) = read_completions(path, tokenizer, 1)
        kept = [i for i, policy in zip(item.completion_ids, item.policy, strict=True) if policy]
        assert tokenizer.decode(kept) == "abef" and tokenizer.decode(item.completion_ids) == "abcdef"
        assert item.prompt == "user: hi"

    def test_refuses_messages_whose_calls_are_not_in_the_text(self, tokenizer, tmp_path):
        calls = [{"function": {"name": "f", "arguments": {}}}]
        message = {"role": "assistant", "content": "", "tool_calls": calls}
        with pytest.raises(ValueError, match=r"row 0: the calls have been taken out .*regions or completion_ids"):
            read_completions(jsonl(tmp_path / "calls.jsonl", {"completion": [message]}), tokenizer, 1)

    def test_refuses_columns_that_do_not_fit_each_other(self, tokenizer, tmp_path):
        path = jsonl(tmp_path / "ids.jsonl", {"completion_ids": [5, 6], "part_ids": [1]})
        with pytest.raises(
            ValueError, match="row 0: completion_ids, part_ids, coefficients and advantages differ in length"
        ):
            read_completions(path, tokenizer, 1)

    @pytest.mark.parametrize(
        ("text", "line"),
        [('[{"completion": "a"}]', 1), ('[\n  {"completion": "a"}\n]', 1), ('{"completion": "a"}\n"b"', 2)],
    )
    def test_names_the_line_that_is_no_object(self, tokenizer, tmp_path, text, line):
        (tmp_path / "a.json").write_text(text)
        with pytest.raises(ValueError, match=rf"line {line} of .*a\.json is not a JSON object"):
            read_completions(tmp_path / "a.json", tokenizer, 9)

    def test_reads_as_many_as_are_wanted(self, tokenizer, tmp_path):
        path = jsonl(tmp_path / "ids.jsonl", *({"completion_ids": [5]} for _ in range(5)))
        assert [item.title for item in read_completions(path, tokenizer, 2)] == ["Completion 0", "Completion 1"]


class TestTablesOfARun:
    @pytest.fixture
    def run(self, tmp_path):
        # The names of the last two differ in length.
        for step in (9, 99_999, 100_000):
            table = tmp_path / "completions" / f"completions_{step:05d}.parquet"
            table.parent.mkdir(exist_ok=True)
            rows = {"step": [step] * 2, "prompt": ["p", "q"], "completion": ["a", "b"], "my_reward": [0.0, 1.0]}
            pandas.DataFrame(rows).to_parquet(table)
            tokens_path(table).parent.mkdir(exist_ok=True)
            stored = {"completion_ids": [[5, 6], [7]], "part_ids": [[4, 0], [1]], "coefficients": [[2.0, 0.0], [1.0]]}
            pandas.DataFrame(stored).to_parquet(tokens_path(table))
        return tmp_path

    def test_have_the_tokens_that_training_stored(self, run, tokenizer):
        first, second = read_completions(run / "completions" / "completions_00009.parquet", tokenizer, 5)
        assert first.completion_ids == [5, 6] and first.part_ids == [4, 0] and first.policy == [True, False]
        assert first.coefficients == [2.0, 0.0] and not first.from_text
        assert second.completion_ids == [7] and second.prompt == "q" and second.scores == {"my_reward": 1.0}

    def test_are_found_from_the_directory_of_the_run(self, run, tokenizer):
        for path in (run, run / "completions"):
            assert read_completions(path, tokenizer, 1)[0].title == "Completion 0, step 100000"

    def test_are_all_read_if_they_are_wanted(self, run, tokenizer):
        items = read_completions(run, tokenizer, 1, all_steps=True)
        assert [item.step for item in items] == [9, 99_999, 100_000]

    def test_have_golds_and_no_scores_that_nothing_gave(self, run, tokenizer):
        table = run / "completions" / "completions_100000.parquet"
        pandas.read_parquet(table).assign(other_reward=[float("nan"), 2.0]).to_parquet(table)
        path = tokens_path(table)
        pandas.read_parquet(path).assign(solution=["gold", None]).to_parquet(path)
        first, second = read_completions(run, tokenizer, 2)
        assert first.scores == {"my_reward": 0.0} and second.scores == {"my_reward": 1.0, "other_reward": 2.0}
        assert (first.solution, second.solution) == ("gold", None)

    def test_may_lack_coefficients(self, run, tokenizer):
        path = run / "completion_tokens" / "completion_tokens_100000.parquet"
        pandas.read_parquet(path).assign(coefficients=None).to_parquet(path)
        (item,) = read_completions(run, tokenizer, 1)
        assert item.coefficients is None and item.part_ids == [4, 0]

    def test_must_fit_their_tokens(self, run, tokenizer):
        path = run / "completion_tokens" / "completion_tokens_100000.parquet"
        pandas.read_parquet(path).head(1).to_parquet(path)
        with pytest.raises(ValueError, match=r"has 1 rows and .* 2: they are of different runs"):
            read_completions(run, tokenizer, 1)

    def test_must_be_there(self, tmp_path, tokenizer):
        with pytest.raises(ValueError, match="has no tables of completions: train with log_completions"):
            read_completions(tmp_path, tokenizer, 1)


class TestRegionSummary:
    def test_counts_tokens_and_averages_coefficients(self, tokenizer, tmp_path):
        (item,) = read_completions(jsonl(tmp_path / "a.jsonl", {"completion_ids": [5, 6, 7, 8]}), tokenizer, 1)
        inspected = Inspected(item, [1, 1, 4, 0], [1.0, 2.0, 0.5, 0.0])
        assert region_summary(inspected) == [
            (Region.NONE, "not the policy's: 1 token"),
            (Region.FORMAT, "format: 2 tokens, coefficient 1.500 (1.000 to 2.000)"),
            (Region.REASONING, "reasoning: 1 token, coefficient 0.500"),
        ]
        assert region_summary(inspected._replace(coefficients=None))[1] == (Region.FORMAT, "format: 2 tokens")
