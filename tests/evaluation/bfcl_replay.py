"""Models for BFCL that write given completions."""

from replay import Replay

from rest_trl.lab.evaluation.bfcl_benchmark import BFCLv3, BFCLv4
from rest_trl.lab.evaluation.summary import evaluate, read_scores


BENCHMARKS = {"v3": BFCLv3, "v4": BFCLv4}


class BFCLReplay(Replay):
    """Keeps the prompts, and breaks off after `last` completions in all."""

    def __init__(self, tokenizer, texts, last=None):
        super().__init__(tokenizer, texts)
        self.last = last
        self.prompts = {}

    def generate(self, prompts):
        self.prompts.update(prompts)
        for completion in super().generate(prompts):
            if self.last is not None and len(self.asked) > self.last:
                raise ConnectionError("the server is gone")
            yield completion


def dialogue_texts(sample, turns):
    """Completions by id of a dialogue, given those of its turns; each turn ends without a call."""
    texts = {}
    for turn, steps in enumerate(turns):
        for step, text in enumerate([*steps, "Done."]):
            texts[f"{sample}/{turn}.{step}"] = text
    return texts


def run(official, categories, texts, tokenizer, path, limit=None, last=None):
    """Summary, scores by id, and the model that was asked."""
    benchmark = BENCHMARKS[official.version](official, categories, tokenizer, "hermes", limit=limit)
    model = BFCLReplay(tokenizer, texts, last)
    summary = evaluate(benchmark, model, path, {"model": "replay", "adapter": None})
    return summary, {score.id: score for score in read_scores(path)}, model
