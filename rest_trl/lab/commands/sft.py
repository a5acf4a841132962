"""`rest-trl sft`: supervised fine-tuning under `accelerate launch`."""

from ...runs import launching


def main(arguments: list[str]) -> None:
    """See [`rest_trl.runs.launching`](rest_trl.runs.launching.main)."""
    launching.main(arguments, "rest-trl sft", "rest_trl.lab.sft")
