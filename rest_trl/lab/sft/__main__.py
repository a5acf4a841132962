"""`python -m rest_trl.lab.sft`: see `rest_trl.lab.sft.program`."""

from .program import main


if __name__ == "__main__":
    main()
