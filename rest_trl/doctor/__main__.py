"""`python -m rest_trl.doctor`: see `rest_trl.doctor`."""

from . import main


if __name__ == "__main__":
    main()
