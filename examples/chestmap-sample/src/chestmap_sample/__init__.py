"""A method, a dataset reader and an output format of your own for chestmap."""
