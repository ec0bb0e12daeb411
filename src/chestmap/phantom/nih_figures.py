"""Figures of ChestX-ray14 that the phantom imitates.

Counted from Data_Entry_2017_v2020.csv (112,120 images, 30,805 patients) and BBox_List_2017.csv (984 boxes); no row of
either is kept.
"""

from __future__ import annotations

import numpy as np

from chestmap.vocabulary import CHESTXRAY14

PREVALENCE = dict(zip(
    CHESTXRAY14.names,
    (0.1031, 0.0248, 0.1188, 0.1774, 0.0516, 0.0565, 0.0128, 0.0473, 0.0416, 0.0205, 0.0224, 0.0150, 0.0302, 0.0020),
    strict=True,
))  # fmt: skip
"""Share of images with each label."""

AP_SHARE = 0.3997

_LOWER = (
    (1.00,),
    (0.07, 1.00),
    (0.37, 0.39, 1.00),
    (0.21, 0.05, 0.25, 1.00),
    (0.06, -0.07, 0.20, 0.04, 1.00),
    (-0.03, -0.07, 0.06, 0.12, 0.30, 1.00),
    (0.14, 0.02, 0.12, 0.29, -0.01, -0.03, 1.00),
    (0.10, -0.17, 0.15, 0.00, 0.12, 0.03, -0.09, 1.00),
    (0.31, 0.08, 0.28, 0.14, 0.25, 0.12, 0.15, 0.00, 1.00),
    (-0.02, 0.16, 0.23, 0.31, 0.02, 0.00, 0.56, -0.20, 0.11, 1.00),
    (0.13, -0.06, 0.05, 0.00, 0.11, -0.04, -0.05, 0.51, 0.00, -0.09, 1.00),
    (0.06, 0.04, -0.01, 0.04, 0.06, 0.12, -0.09, 0.00, 0.02, -0.19, -0.01, 1.00),
    (0.10, 0.06, 0.23, 0.07, 0.24, 0.19, 0.02, 0.14, 0.13, -0.01, 0.14, 0.26, 1.00),
    (0.11, 0.03, -0.04, -0.04, 0.13, -0.04, 0.00, -0.03, -0.11, -0.05, -0.03, 0.12, 0.02, 1.00),
    (0.15, 0.04, 0.16, 0.22, -0.02, -0.08, 0.16, -0.05, 0.32, 0.53, 0.01, -0.27, -0.14, -0.23, 1.00),
)

CORRELATION = np.array([[_LOWER[max(i, j)][min(i, j)] for j in range(15)] for i in range(15)])
"""Tetrachoric correlations of the fourteen labels and, last, of an AP view."""

PERSISTENCE = np.array([0.53, 0.68, 0.64, 0.40, 0.72, 0.60, 0.45, 0.83, 0.55, 0.65, 0.79, 0.59, 0.55, 0.91, 0.72])
"""Tetrachoric correlation of each label (and of AP) with itself in the same patient's next image."""

IMAGES_PER_PATIENT = (
    (0, 0.57, 0.70, 0.75, 0.80, 0.85, 0.90, 0.925, 0.95, 0.97, 0.98, 0.99, 0.995, 0.999, 1),
    (1, 1, 2, 3, 4, 6, 8, 10, 14, 19, 24, 35, 50, 83, 184),
)
"""Quantiles; the mean is 3.64."""

AGE = ((0, 0.01, 0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 0.95, 0.99, 1), (4, 6, 17, 23, 33, 47, 58, 66, 71, 79, 95))
"""Quantiles of a patient's age at the first image; below 4 years the phantom has no anatomy."""

MALE_SHARE = 0.54

TEST_SHARE = 0.228
"""Of the images; these come from 9 % of the patients, those with many and with more findings."""

BOX_AREA = {
    "Atelectasis": 0.0188, "Cardiomegaly": 0.1709, "Effusion": 0.0557, "Infiltration": 0.0566, "Mass": 0.0148,
    "Nodule": 0.0046, "Pneumonia": 0.0572, "Pneumothorax": 0.0358,
}  # fmt: skip
"""Median share of the image that a box covers; what the sizes in `lesions`, `opacities` and `pleura` are set by."""

BOXED_SHARE = 0.58
"""Of the boxable labels on images with a box, those that carry one."""

FILMS = {
    "PA": (
        (0.60, 2992, 2991, 0.143), (0.16, 2500, 2048, 0.168), (0.11, 2048, 2500, 0.168), (0.07, 2021, 2021, 0.194311),
        (0.03, 2544, 3056, 0.139), (0.03, 3056, 2544, 0.139),
    ),
    "AP": (
        (0.64, 2500, 2048, 0.168), (0.32, 3056, 2544, 0.139), (0.03, 2048, 2500, 0.168), (0.01, 2544, 3056, 0.139),
    ),
}  # fmt: skip
"""Share, width, height and millimeters per pixel of the originals by view."""
