"""A benchmark as a user writes it: one class, given to `rest-trl evaluate` by its dotted path."""

from rest_trl.lab.evaluation.benchmark import Sample, Score, SingleTurnBenchmark


class Lengths(SingleTurnBenchmark):
    """Whether a completion has no more tokens than allowed."""

    name = "lengths"
    metrics = ("short",)
    options = {"most_tokens": {"type": int, "help": "how long a right completion may be"}}
    protocol = ("most_tokens",)

    @classmethod
    def from_options(cls, options, tokenizer, resources):
        samples = [Sample(f"lengths_{i}", "all", f"{i}", f"{i} and {i} make", i) for i in range(4)]
        settings = {"most_tokens": options["most_tokens"] or 4, "limit": options["limit"]}
        return cls(samples[: options["limit"]], settings, ["says nothing"])

    def score(self, sample, completion):
        ids, text = completion.completion_ids, completion.text
        short = len(ids) <= self.settings["most_tokens"]
        why = None if short else f"{len(ids)} tokens"
        return Score(sample.id, sample.subset, sample.cluster, {"short": float(short)}, why, [], ids, text)


class Unfinished(SingleTurnBenchmark):
    """A class that is no benchmark yet."""


A_NUMBER = 3
