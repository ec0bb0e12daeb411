"""What a phantom dataset is asked to be."""

from __future__ import annotations

from pydantic import Field, NonNegativeInt, PositiveInt

from chestmap.phantom.nih_figures import BOXED_SHARE, TEST_SHARE
from chestmap.settings import Settings


class PhantomSettings(Settings):
    """Defaults imitate ChestX-ray14, except that every test image may carry boxes."""

    images: PositiveInt = 2000
    seed: NonNegativeInt = 0
    side: int = Field(default=512, ge=32, le=2048)
    """Pixels of the written images; boxes are in the 1024 frame whatever it is."""
    label_noise: float = Field(default=0.1, ge=0, lt=0.6)
    """Share of true findings that the labels miss, and of positive labels that are wrong; prevalence stays as it is."""
    enrich: float = Field(default=0.0, ge=0, le=1)
    """0: prevalences of NIH. 1: every finding on 12 % of the images, which leaves at least 40 boxes of each among 2,000
    with `boxed = 1`.
    """
    test: float = Field(default=TEST_SHARE, gt=0, lt=1)
    boxed: float = Field(default=BOXED_SHARE, ge=0, le=1)
    """Share of true and labelled test findings, of the eight that NIH boxes, that carry a box."""
    boxed_train: float = Field(default=0.0, ge=0, le=1)
    """The same for the training list; NIH has none there."""
    misalignment: float = Field(default=1.0, ge=0, le=4)
    """Scale of shift, roll and zoom of the patient on the film; 1 is what films show."""
    confounders: bool = True
    """Leads, tubes, letters, shutters and the like, which go with illness and view but are no finding."""
    masks: bool = False
    """Write the true masks of every finding."""
    dicom: bool = False
    """Write DICOM copies of the images."""
    monochrome1: float = Field(default=0.2, ge=0, le=1)
    """Share of the DICOM copies that store white as 0."""
    processes: int = Field(default=0, ge=0, exclude=True)
    """0: one for each core. The files are the same whatever the number."""
