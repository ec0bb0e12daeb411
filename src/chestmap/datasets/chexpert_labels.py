"""What becomes of CheXpert's uncertain and blank label cells."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float32, Int8, UInt8

from chestmap.datasets.columns import ABSENT, BLANK, PRESENT, UNCERTAIN
from chestmap.datasets.source import UNKNOWN, Problem
from chestmap.types import Findings

Policy = Literal["ignore", "zeros", "ones", "zeros-lsr", "ones-lsr"]
SMOOTHED = {"zeros-lsr": (0.0, 0.3), "ones-lsr": (0.55, 0.85)}
"""Ranges of random soft labels: Pham et al., "Interpreting chest X-rays via CNNs that exploit disease dependencies", 2019."""

OTHERS = "others"
"""In a table of finding to policy, the findings that it does not name."""

DEVICES = "Support Devices"
Codes = UInt8[np.ndarray, "image finding"]


def filled(codes: Codes, findings: Findings, normal: Bool[np.ndarray, "image"] | None) -> Int8[np.ndarray, "image finding"]:
    """Labels where a blank is negative; or, given which reports are `normal`, unknown unless No Finding denies it."""
    labels = np.full(codes.shape, UNKNOWN, dtype=np.int8)
    labels[codes == PRESENT], labels[codes == ABSENT] = 1, 0
    denied = True if normal is None else normal[:, None] & np.array([name != DEVICES for name in findings])
    labels[(codes == BLANK) & denied] = 0
    return labels


def policy_of(finding: str, policies: Policy | Mapping[str, Policy]) -> Policy:
    """The policy of a finding: its own, that of `others`, or "ignore"."""
    return policies if isinstance(policies, str) else policies.get(finding, policies.get(OTHERS, "ignore"))


def resolved(
    labels: Int8[np.ndarray, "image finding"],
    unsure: Bool[np.ndarray, "image finding"],
    chosen: Sequence[Policy],
    keys: Sequence[Sequence[str]],
) -> tuple[Int8[np.ndarray, "image finding"], Float32[np.ndarray, "image finding"] | None]:
    """Labels and soft labels after one policy for each finding; a smoothed label stays unknown to evaluation.

    `keys` names, for each smoothed finding, its unsure images; a soft label depends on its key alone.
    """
    labels, soft = labels.copy(), np.full(labels.shape, np.nan, dtype=np.float32)
    for column, (policy, names) in enumerate(zip(chosen, keys, strict=True)):
        if policy in SMOOTHED:
            soft[unsure[:, column], column] = [_drawn(name, *SMOOTHED[policy]) for name in names]
        elif policy != "ignore":
            labels[unsure[:, column], column] = policy == "ones"
    return labels, None if np.isnan(soft).all() else soft


def _drawn(key: str, low: float, high: float) -> float:
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return low + (high - low) * int.from_bytes(digest, "big") / 2**64


def label_problems(codes: Codes, findings: Findings, chosen: Sequence[Policy]) -> tuple[Problem, ...]:
    """How many labels were uncertain, and what became of them."""
    counts = (codes == UNCERTAIN).sum(axis=0)
    each = [f"{name} {count:,} ({policy})" for name, count, policy in zip(findings, counts, chosen, strict=True) if count]
    return (Problem("note", "uncertain label", "uncertain labels: " + ", ".join(each), int(counts.sum())),) if each else ()
