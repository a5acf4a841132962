"""`python -m rest_trl.sft`: see `rest_trl.sft.program`."""

from .program import main


if __name__ == "__main__":
    main()
