"""
Mutated completions of every syntax through parse and partition: `make fuzz N=1000000`.

No exception, parts sorted, disjoint and covering, a region for every token of the policy and none elsewhere.
"""

import argparse
import random
import sys
from pathlib import Path

import torch
from tqdm import tqdm
from transformers import AutoTokenizer

from rest_trl.lab.tiny import TINY_MODEL_DIR
from rest_trl.regions.partition import Partitioner
from rest_trl.tool_calls import SYNTAXES, Part, get_syntax


sys.path.insert(0, str(Path(__file__).parent))
from cases import load_syntaxes


BATCH = 200
ALPHABET = [*"\"\\{}[]()=:,'\n 0eé🛠\x00", "\ud800"]


def mutate(text: str, seeds: list[str], markers: list[str], random_state: random.Random) -> str:
    """One to six edits: cut, delete, repeat, insert characters or markers, splice with another completion."""
    for _ in range(random_state.randint(1, 6)):
        start = random_state.randint(0, len(text))
        end = min(len(text), start + random_state.choice([1, 2, 5, 20, 200]))
        edit = random_state.randrange(6)
        if edit == 0:
            text = text[:start]
        elif edit == 1:
            text = text[:start] + text[end:]
        elif edit == 2:
            text = text[:end] + text[start:end] * random_state.choice([1, 1, 3]) + text[end:]
        elif edit == 3:
            text = text[:start] + random_state.choice(ALPHABET) * random_state.choice([1, 1, 1, 40]) + text[start:]
        elif edit == 4:
            text = text[:start] + random_state.choice(markers) + text[start:]
        else:
            other = random_state.choice(seeds)
            text = text[:start] + other[random_state.randint(0, len(other)) :]
    return text[:4000]


def check_parse(name: str, text: str) -> None:
    """The promises of [`ParsedCompletion`]."""
    parsed = get_syntax(name).parse(text)
    position = 0
    for start, end, part in parsed.parts:
        assert start == position < end and part is not Part.NONE, (name, text)
        position = end
    assert position == len(text), (name, text)
    assert all(isinstance(call.name, str) and isinstance(call.arguments, dict) for call in parsed.calls), (name, text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=100_000, help="completions over all syntaxes")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    random_state = random.Random(arguments.seed)
    cases = {name: [case.text for case in syntax.cases] for name, syntax in load_syntaxes().items()}
    everything = [text for texts in cases.values() for text in texts]
    markers = sorted({marker for tool_call_syntax in SYNTAXES.values() for marker in tool_call_syntax.markers})
    tokenizer = AutoTokenizer.from_pretrained(TINY_MODEL_DIR)
    partitioners = {name: Partitioner(tokenizer, get_syntax(name)) for name in SYNTAXES}
    done = 0
    with tqdm(total=arguments.n, desc="mutated completions") as bar:
        while done < arguments.n:
            name = random_state.choice(sorted(SYNTAXES))
            seeds = cases[name] if random_state.random() < 0.9 else everything
            size = min(BATCH, arguments.n - done)
            texts = [mutate(random_state.choice(seeds), seeds, markers, random_state) for _ in range(size)]
            for text in texts:
                check_parse(name, text)
            encodable = [text.encode("utf-8", "replace").decode() for text in texts]
            encoded = tokenizer(encodable, padding=True, padding_side="right", return_tensors="pt")
            # Ids no tokenizer would give: any token anywhere, characters cut in two.
            ids = torch.where(
                torch.rand(encoded["input_ids"].shape) < 0.02,
                torch.randint(len(tokenizer), encoded["input_ids"].shape),
                encoded["input_ids"],
            )
            parts = partitioners[name](ids, encoded["attention_mask"])
            assert torch.equal(parts == Part.NONE, encoded["attention_mask"] == 0), (name, texts)
            done += size
            bar.update(size)
    print(f"fuzz {done} completions, {len(SYNTAXES)} syntaxes, 0 failures")


if __name__ == "__main__":
    main()
