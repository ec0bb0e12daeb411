"""`python -m chestmap`, which torchrun needs."""

from chestmap.cli import main

main()
