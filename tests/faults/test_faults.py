"""A few cells of the fault matrix; `make faults` runs hundreds."""

import pytest

from faults.matrix import FAULTS, Matrix, cells


@pytest.fixture(scope="module")
def matrix(tmp_path_factory):
    return Matrix(tmp_path_factory.mktemp("faults"))


def test_the_draw_has_every_pair_and_is_the_same_again():
    drawn = cells(400, slow=True)
    assert len(drawn) == 400
    assert {fault for _, fault, _ in drawn} == set(FAULTS)
    assert drawn == cells(400, slow=True)
    assert len(set(drawn)) == 400


@pytest.mark.slow
@pytest.mark.parametrize(("verb", "fault", "moment"), cells(40, slow=False))
def test_nothing_is_lost_nothing_doubled_and_one_line_told(matrix, verb, fault, moment):
    assert matrix.cell(verb, fault, moment) == []
