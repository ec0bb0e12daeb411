"""The rooms. Importing this imports torch and timm; a verb that only prints help must not."""

from chestmap.methods import ag_cnn, attention_mining, cam, cia_net, disease_masks, ham, patch_mil
from chestmap.training import Method

METHODS: dict[str, Method] = {
    "ag_cnn": ag_cnn.METHOD,
    "attention_mining": attention_mining.METHOD,
    "cam": cam.METHOD,
    "cia_net": cia_net.METHOD,
    "disease_masks": disease_masks.METHOD,
    "ham": ham.METHOD,
    "patch_mil": patch_mil.METHOD,
}
