"""`python -m vzvideo`, where the command itself is not on the path."""

from vzvideo.cli.main import main

if __name__ == "__main__":
    main()
