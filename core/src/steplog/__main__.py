"""``python -m steplog``: the command line."""

from steplog.cli import main

if __name__ == "__main__":
    main()
