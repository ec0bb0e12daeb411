"""The rooms. Importing this imports torch and timm; a verb that only prints help must not."""

from chestmap.methods import cam, cia_net, disease_masks, ham
from chestmap.training import Method

METHODS: dict[str, Method] = {
    "cam": cam.METHOD,
    "cia_net": cia_net.METHOD,
    "disease_masks": disease_masks.METHOD,
    "ham": ham.METHOD,
}
