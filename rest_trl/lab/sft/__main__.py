"""`python -m rest_trl.lab.sft`: see `rest_trl.lab.sft`."""

from . import main


if __name__ == "__main__":
    main()
