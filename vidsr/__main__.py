"""`python -m vidsr` is the command `vidsr`."""

from vidsr.cli import main

if __name__ == "__main__":
    main()
