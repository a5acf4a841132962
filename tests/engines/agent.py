"""
What TRL's loop of tool calls needs to run with the tiny model as it is: its world's tools, template and requests.

The tiny model was warm-started on dialogues of three steps: find a train, buy tickets for it, say that it is done.
Under its own chat template it calls these tools by itself; sometimes a broken call, sometimes several at once.
"""

from itertools import islice

from datasets import Dataset
from transformers import AutoTokenizer
from trl.chat_template_utils import qwen3_template

from rest_trl.lab.tiny import TINY_MODEL_DIR, generate_steps


def find_train(origin: str, destination: str, date: str) -> str:
    """
    Find a train between two cities.

    Args:
        origin: City that it leaves.
        destination: City that it reaches.
        date: Day.
    """
    return f'{{"train": {100 + sum(map(ord, origin + destination + date)) % 900}}}'


def buy_ticket(train: int, seats: int, first_class: bool) -> str:
    """
    Buy tickets for a train.

    Args:
        train: Number of the train.
        seats: How many.
        first_class: Whether in first class.
    """
    return '{"ok": true}'


class Station:
    """The same tools as an environment, which pays for a ticket of the train that was found last."""

    def reset(self, **row) -> None:
        self.paid, self.found = [], None

    def find_train(self, origin: str, destination: str, date: str) -> str:
        """
        Find a train between two cities.

        Args:
            origin: City that it leaves.
            destination: City that it reaches.
            date: Day.
        """
        self.paid.append(0.25)
        self.found = find_train(origin, destination, date)
        return self.found

    def buy_ticket(self, train: int, seats: int, first_class: bool) -> str:
        """
        Buy tickets for a train.

        Args:
            train: Number of the train.
            seats: How many.
            first_class: Whether in first class.
        """
        self.paid.append(float(str(train) in (self.found or "")))
        return buy_ticket(train, seats, first_class)

    def turn_rewards(self) -> list[float]:
        return self.paid


def calls_in_turns(completions, **kwargs):
    """A reward for every assistant turn: the number of its calls, at most two."""
    return [
        [float(min(2, len(message.get("tool_calls") or []))) for message in messages if message["role"] == "assistant"]
        for messages in completions
    ]


def agent_tokenizer():
    """The tiny model's tokenizer with its own template, whose calls TRL reads as it reads Qwen3's."""
    tokenizer = AutoTokenizer.from_pretrained(TINY_MODEL_DIR, padding_side="left")
    tokenizer.response_template = qwen3_template
    return tokenizer


def agent_dataset(size=8):
    """Requests of the tiny world that take a train and its tickets, as messages."""
    steps = (step for step in generate_steps("tiny", "train") if step.kind == "multi_step" and len(step.messages) == 1)
    asked = (step.messages for step in steps if "find_train" in {tool["function"]["name"] for tool in step.tools})
    return Dataset.from_dict({"prompt": list(islice(asked, size))})
