"""`python -m raybench`: the command line."""

from raybench.cli import main

if __name__ == "__main__":
    main()
