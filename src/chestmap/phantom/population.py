"""Who is in a phantom dataset: patients, their images, true findings, and the labels a text miner would make of them.

Everything is drawn for the whole dataset at once from the seed, in well under a second for 112,120 images; drawing an image
needs only its row.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Int

from chestmap.phantom import nih_figures as nih
from chestmap.phantom.draw import Case
from chestmap.phantom.raster import stream
from chestmap.phantom.settings import PhantomSettings
from chestmap.vocabulary import BOXED_IN_CHESTXRAY14, CHESTXRAY14

NAMES = CHESTXRAY14.names

_ENRICHED = 0.12

_CONFUSED = {
    "Atelectasis": ("Infiltration", "Effusion", "Consolidation", "Pneumonia"),
    "Cardiomegaly": ("Effusion", "Edema"),
    "Effusion": ("Pleural Thickening", "Atelectasis", "Consolidation"),
    "Infiltration": ("Pneumonia", "Consolidation", "Atelectasis", "Edema", "Fibrosis"),
    "Mass": ("Nodule", "Consolidation"),
    "Nodule": ("Mass",),
    "Pneumonia": ("Infiltration", "Consolidation"),
    "Pneumothorax": ("Emphysema",),
    "Consolidation": ("Pneumonia", "Infiltration", "Atelectasis"),
    "Edema": ("Infiltration", "Pneumonia"),
    "Emphysema": ("Pneumothorax",),
    "Fibrosis": ("Infiltration", "Pleural Thickening"),
    "Pleural Thickening": ("Effusion", "Fibrosis"),
    "Hernia": ("Mass",),
}
"""A wrong label is four times as likely where one of these is truly present."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Population:
    """Rows are images, a patient's in order of time; columns of the tables follow the vocabulary."""

    patient: Int[np.ndarray, "image"]
    follow_up: Int[np.ndarray, "image"]
    age: Int[np.ndarray, "image"]
    male: Bool[np.ndarray, "image"]
    ap: Bool[np.ndarray, "image"]
    truth: Bool[np.ndarray, "image finding"]
    labels: Bool[np.ndarray, "image finding"]
    test: Bool[np.ndarray, "image"]
    boxed: Bool[np.ndarray, "image finding"]

    def __len__(self) -> int:
        return len(self.patient)

    def image_id(self, row: int) -> str:
        """NIH's name without the suffix: patient in eight digits, follow-up in three."""
        return f"{self.patient[row]:08d}_{self.follow_up[row]:03d}"

    def case(self, row: int, settings: PhantomSettings) -> Case:
        """What `draw` needs to know of one image; the labels' errors are not part of it."""
        first = row - self.follow_up[row]
        return Case(
            seed=settings.seed,
            patient=int(self.patient[row]),
            follow_up=int(self.follow_up[row]),
            sex="M" if self.male[row] else "F",
            age=int(self.age[first]),
            view="AP" if self.ap[row] else "PA",
            findings=tuple(name for name, here in zip(NAMES, self.truth[row], strict=True) if here),
            confounders=settings.confounders,
            misalignment=settings.misalignment,
        )


def prevalences(enrich: float) -> np.ndarray:
    """NIH's shares, drawn towards the same share for all."""
    real = np.array([nih.PREVALENCE[name] for name in NAMES])
    return real ** (1 - enrich) * _ENRICHED**enrich


def make_population(settings: PhantomSettings) -> Population:
    """The people of a dataset; the same settings give the same people in every process."""
    return _population(settings.model_dump_json())


@lru_cache(maxsize=4)  # worker processes ask for each chunk
def _population(text: str) -> Population:
    """Kept for the last few settings, as JSON because that can be hashed."""
    settings = PhantomSettings.model_validate_json(text)
    seed = settings.seed
    counts = _images_per_patient(settings)
    patients = len(counts)
    r = stream(seed, "patients")
    patient = np.repeat(np.arange(1, patients + 1), counts)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    follow_up = np.arange(len(patient)) - first
    age = np.rint(np.interp(r.random(patients), *nih.AGE)).astype(np.int64)
    aging = np.repeat(r.uniform(0, 0.6, patients), counts) * follow_up
    truth, ap = _findings(settings, counts)
    labels = _labels(settings, truth)
    test = _test_patients(settings, counts, truth)[patient - 1]
    boxable = np.array([name in BOXED_IN_CHESTXRAY14 for name in NAMES])
    chance = np.where(test, settings.boxed, settings.boxed_train)[:, None]
    boxed = truth & labels & boxable & (stream(seed, "boxed").random(truth.shape) < chance)
    return Population(
        patient=patient,
        follow_up=follow_up,
        age=np.minimum(age[patient - 1] + aging.astype(np.int64), 95),
        male=(r.random(patients) < nih.MALE_SHARE)[patient - 1],
        ap=ap,
        truth=truth,
        labels=labels,
        test=test,
        boxed=boxed,
    )


def _images_per_patient(settings: PhantomSettings) -> np.ndarray:
    """As skewed as NIH's, but no patient is more than a hundredth of a small dataset."""
    r, wanted = stream(settings.seed, "counts"), settings.images
    at, count = nih.IMAGES_PER_PATIENT
    drawn = np.ceil(np.interp(r.random(wanted), at, count)).astype(np.int64)
    drawn = np.clip(drawn, 1, max(4, wanted // 100))
    patients = int(np.searchsorted(np.cumsum(drawn), wanted)) + 1
    counts = drawn[:patients]
    counts[-1] -= counts.sum() - wanted
    return counts


def _findings(settings: PhantomSettings, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A Gaussian copula: a part that stays with the patient and a part of each image, thresholded at the prevalences.

    The latent correlations are NIH's tetrachoric ones, so co-occurrence, the sickness of AP patients and the persistence of
    findings over follow-ups come out as they are there.
    """
    r = stream(settings.seed, "findings")
    root = np.linalg.cholesky(nih.CORRELATION)
    lasting = np.repeat(r.standard_normal((len(counts), 15)) @ root.T, counts, axis=0)
    passing = r.standard_normal((len(lasting), 15)) @ root.T
    latent = np.sqrt(nih.PERSISTENCE) * lasting + np.sqrt(1 - nih.PERSISTENCE) * passing
    shares = np.append(prevalences(settings.enrich), nih.AP_SHARE)
    rows = np.rint((1 - shares) * len(latent)).astype(np.int64)  # exact counts, which small datasets need
    cuts = np.sort(latent, axis=0)[np.minimum(rows, len(latent) - 1), np.arange(15)]
    present = latent >= cuts
    return present[:, :-1], present[:, -1]


def _labels(settings: PhantomSettings, truth: np.ndarray) -> np.ndarray:
    """Each true finding is missed with the rate of `label_noise`, and as many wrong positives take their place.

    So both precision and recall of the labels are 1 - noise, about what readers found for text-mined labels, and the
    prevalences stay.
    """
    r, noise = stream(settings.seed, "labels"), settings.label_noise
    labels = truth & (r.random(truth.shape) >= noise)
    for column, name in enumerate(NAMES):
        confusable = truth[:, [NAMES.index(other) for other in _CONFUSED[name]]].any(1)
        weight = np.where(confusable, 4.0, 1.0) * ~truth[:, column]
        rate = noise * truth[:, column].sum() / max(weight.sum(), 1.0)
        labels[:, column] |= r.random(len(truth)) < rate * weight
    return labels


def _test_patients(settings: PhantomSettings, counts: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Patients with many images and more findings come first, as in NIH's test list, until the share is reached."""
    r = stream(settings.seed, "test")
    start = np.cumsum(counts) - counts
    ill = np.add.reduceat(truth.sum(1), start) / counts
    order = np.argsort(r.exponential(size=len(counts)) / (np.minimum(counts, 12) * (0.4 + ill)))
    filled = np.cumsum(counts[order])
    chosen = np.zeros(len(counts), bool)
    chosen[order[: max(1, int(np.searchsorted(filled, settings.test * counts.sum())))]] = True
    return chosen
