"""`rest-trl sft`: supervised fine-tuning under `accelerate launch`."""

from ...runs import launching


def main(arguments: list[str]) -> None:
    """
    Run the program under `accelerate launch`, see [`rest_trl.runs.launching`](rest_trl.runs.launching.main).

    Args:
        arguments (`list[str]`):
            Arguments of the program, and `--accelerate_config FILE`.
    """
    launching.main(arguments, "sft")
