"""A generator that writes given texts, for tests of what becomes of them."""

from rest_trl.lab.evaluation.generation import to_completion


class Replay:
    """
    Writes `texts[id]` for the prompt `id`; prompts without a text are left out.

    `asked` holds the ids of all prompts that it was given, and after `breaks_after` completions it breaks off.
    """

    def __init__(self, tokenizer, texts, breaks_after=None, truncated=()):
        self.tokenizer = tokenizer
        self.texts = texts
        self.breaks_after = breaks_after
        self.truncated = truncated
        self.asked = []

    def generate(self, prompts):
        for count, id in enumerate(prompts):
            if count == self.breaks_after:
                raise ConnectionError("the server is gone")
            self.asked.append(id)
            if id in self.texts:
                ids = self.tokenizer(self.texts[id], add_special_tokens=False)["input_ids"]
                if id not in self.truncated:
                    ids = [*ids, self.tokenizer.eos_token_id]
                yield to_completion(id, ids, id in self.truncated, self.tokenizer, {self.tokenizer.eos_token_id})
