"""The rooms. Importing this imports torch and timm; a verb that only prints help must not."""

from chestmap.methods import cam, ham
from chestmap.training import Method

METHODS: dict[str, Method] = {
    "cam": cam.METHOD,
    "ham": ham.METHOD,
}
