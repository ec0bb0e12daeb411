"""The checker of shapes wraps what annotates an array, in whichever way, and nothing else."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from jaxtyping import Float

from shapes import check, only_where_arrays_are

Plane = Float[np.ndarray, "rows columns"]
watch = only_where_arrays_are(typechecker=check)


def test_a_wrong_shape_is_refused():
    @watch
    def added(one: Float[torch.Tensor, "batch 3"], other: Float[torch.Tensor, "batch 3"]) -> Float[torch.Tensor, "batch 3"]:
        return one + other

    added(torch.ones(2, 3), torch.ones(2, 3))
    with pytest.raises(Exception, match="Type-check error"):
        added(torch.ones(2, 3), torch.ones(1, 3))


@pytest.mark.parametrize(
    "note", [Plane, "Plane", Plane | None, "Plane | None", list[Plane], "Float[np.ndarray, 'rows columns']"]
)
def test_an_array_is_found_however_it_is_written(note):
    def whole(given):
        return given

    whole.__annotations__ = {"given": note}
    assert watch(whole) is not whole


def test_fields_and_properties_are_watched():
    @watch
    @dataclass
    class Kept:
        plane: "Plane"

        @watch
        @property
        def turned(self) -> "Plane":
            return self.plane.T[0]

    with pytest.raises(Exception, match="Type-check error"):
        Kept(np.ones(3))
    with pytest.raises(Exception, match="Type-check error"):
        _ = Kept(np.ones((2, 3))).turned


def test_what_has_no_array_costs_nothing():
    def counted(names: list[str]) -> int:
        return len(names)

    assert watch(counted) is counted
