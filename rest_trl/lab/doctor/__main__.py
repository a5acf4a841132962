"""`python -m rest_trl.lab.doctor`: see `rest_trl.lab.doctor`."""

from . import main


if __name__ == "__main__":
    main()
