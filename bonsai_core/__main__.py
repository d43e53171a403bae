"""`python -m bonsai_core`: the command `bonsai`, as launchers of several processes start it."""

from bonsai_core.cli.main import main

if __name__ == "__main__":
    main()
