"""`python -m handeye VERB ...` and `torchrun -m handeye train ...`: the command line."""

from handeye.tools.command_line import main

if __name__ == "__main__":
    main()
