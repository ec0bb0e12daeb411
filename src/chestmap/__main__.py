"""`python -m chestmap`, which torchrun needs; processes that it starts read this file again, under another name."""

from chestmap.cli import main

if __name__ == "__main__":
    main()
