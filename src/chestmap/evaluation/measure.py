"""Names all measures in one place. Each name is also the text in metrics.json."""

from enum import StrEnum


class Measure(StrEnum):
    """What a `Score` is of. docs/evaluation.md explains each."""

    AUC = "AUC"
    AP = "AP"  # average precision of images
    ECE = "ECE"
    ECE_BY_COUNT = "ECE by equal counts"
    BRIER = "Brier"
    SENSITIVITY = "sensitivity"
    SPECIFICITY = "specificity"
    IOU_MET = "T(IoU)"
    IOR_MET = "T(IoR)"
    IOGT_MET = "T(IoGT)"
    MEAN_IOU = "mean IoU"
    MEAN_IOR = "mean IoR"
    MEAN_IOGT = "mean IoGT"
    GATED_IOU_MET = "gated T(IoU)"
    POINTING_GAME = "pointing game"
    AFP = "AFP"
    GATED_AFP = "gated AFP"
    AFP_BY_IOR = "AFP by IoR"
    FROC = "FROC"
    MAX_BOX_ACC = "MaxBoxAcc"
    MAX_BOX_ACC_V2 = "MaxBoxAccV2"
    PXAP = "PxAP"
    MIOU = "mIoU"
    MIOU_WITH_MISSES = "mIoU with misses"
    HIT_RATE = "hit rate"
    BOX_AP = "box AP"
    BOX_ECE = "box ECE"
    BOX_BRIER = "box Brier"
    RODEO = "RoDeO"
    RODEO_PLACE = "RoDeO place"
    RODEO_SHAPE = "RoDeO shape"
    RODEO_FINDING = "RoDeO finding"
    ALSO_MARKED = "also marked"


MET = {"IoU": Measure.IOU_MET, "IoR": Measure.IOR_MET, "IoGT": Measure.IOGT_MET}
"""The share of boxes met, by what is asked to be at least T."""

MEAN_OVERLAP = {"IoU": Measure.MEAN_IOU, "IoR": Measure.MEAN_IOR, "IoGT": Measure.MEAN_IOGT}
