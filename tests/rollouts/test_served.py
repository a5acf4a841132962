from types import SimpleNamespace

import pytest

from rest_trl.regions.token_bytes import TokenBytes
from rest_trl.rollouts import served
from rest_trl.rollouts.reasoning import ReasoningEnd
from rest_trl.rollouts.served import sample_branches
from rest_trl.tool_calls import get_syntax


LIMIT = 20


class Server:
    """Answers each prompt with the next of its texts, up to the stop string or the limit, as vLLM does."""

    def __init__(self, tokenizer, texts):
        self.tokenizer, self.texts = tokenizer, texts
        self.generation_kwargs, self.max_completion_length = {"top_k": 3}, LIMIT
        self.requests = []

    def sample(self, prompts, count):
        self.requests.append((prompts, count, self.generation_kwargs))
        texts = [self.texts.pop(0) for _ in prompts]
        stop = self.generation_kwargs.get("stop", ["never"])[0]
        texts = [text[: text.index(stop) + len(stop)] if stop in text else text for text in texts]
        ids = [self.tokenizer(text)["input_ids"][: self.generation_kwargs.get("max_tokens", LIMIT)] for text in texts]
        return ids, [[-0.5 * token for token in row] for row in ids]


@pytest.fixture
def sample(tokenizer):
    def sampled(texts):
        server, syntax = Server(tokenizer, texts), get_syntax("hermes")
        output = sample_branches(
            server.sample,
            server,
            [[300]] * 4,
            4,
            ReasoningEnd(TokenBytes(tokenizer, syntax.markers), syntax),
            2,
            [tokenizer.eos_token_id],
        )
        assert server.generation_kwargs == {"top_k": 3} and not server.texts
        assert output.logprobs == [[-0.5 * token for token in row] for row in output.completion_ids]
        return SimpleNamespace(requests=server.requests, **output._asdict())

    return sampled


def decoded(tokenizer, output):
    return [tokenizer.decode(ids) for ids in output.completion_ids]


class TestSampleBranches:
    def test_continues_every_reasoning(self, sample, tokenizer):
        output = sample(["<think>a</think>lost", "<think>bc</think>", *"wxyz"])
        assert decoded(tokenizer, output) == [
            *("<think>a</think>w", "<think>a</think>x"),
            *("<think>bc</think>y", "<think>bc</think>z"),
        ]
        assert output.prefix_lengths[0] == len(tokenizer("<think>a</think>")["input_ids"])
        assert output.num_discarded == 0
        (first, count, stop), (second, size, _) = output.requests
        assert (count, size) == (2, 2) and first == [[300], [300]]
        assert stop["stop"] == ["</think>"] and stop["include_stop_str_in_output"] and stop["top_k"] == 3
        rows = zip(output.completion_ids, output.prefix_lengths, strict=True)
        assert second == [[300, *ids[:length]] for ids, length in rows]

    def test_leaves_what_is_not_closed_whole(self, sample, tokenizer):
        whole = "<think>never<|im_end|>"
        output = sample([whole, "<think>b</think>", *"yz"])
        assert decoded(tokenizer, output) == [whole, whole, "<think>b</think>y", "<think>b</think>z"]
        assert output.prefix_lengths[:2] == [len(output.completion_ids[0])] * 2
        assert len(output.requests[1][0]) == 2

    def test_asks_nothing_more_where_all_is_whole(self, sample):
        output = sample(["<think>a<|im_end|>", "<think>b<|im_end|>"])
        assert len(output.requests) == 1 and output.num_discarded == 0

    def test_cuts_a_completion_without_reasoning_where_that_shows(self, sample, tokenizer):
        output = sample(["<tool_call>lost", "<think>b</think>", *"wxyz"])
        assert decoded(tokenizer, output)[:2] == ["<tool_call>w", "<tool_call>x"]
        assert output.num_discarded == len(tokenizer("lost")["input_ids"])

    def test_cuts_what_exceeds_the_limit_of_a_completion(self, sample, tokenizer):
        long, short = "<think>" + 9 * "q" + "</think>", "<think>q</think>"
        rows = [len(tokenizer(text)["input_ids"]) for text in (long, short)]
        output = sample([long, short, *(["z" * 40] * 4)])
        assert [len(ids) for ids in output.completion_ids] == [LIMIT] * 4
        assert output.requests[1][2]["max_tokens"] == LIMIT - rows[1]
        assert output.num_discarded == 2 * (rows[0] - rows[1])

    def test_asks_as_often_and_as_much_as_other_ranks(self, sample, monkeypatch, tokenizer):
        monkeypatch.setattr(served, "gather_object", lambda rows: [*rows, (3, 16)])
        output = sample(["<think>a<|im_end|>", "<think>b</think>", *"yz", *["lost"] * 4])
        prompts, _, options = output.requests[1]
        assert len(prompts) == 6 and options["max_tokens"] >= 16
        assert decoded(tokenizer, output)[2:] == ["<think>b</think>y", "<think>b</think>z"]
        assert output.num_discarded == 4 * len(tokenizer("lost")["input_ids"])
