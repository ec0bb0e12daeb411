"""The best rectangle is the one that trying all of them finds."""

import torch

from chestmap.nn.rectangles import best_rectangle, intervals


def tried(p):
    best, found = -1.0, None
    height, width = p.shape
    for y0 in range(height):
        for y1 in range(y0 + 1, height + 1):
            for x0 in range(width):
                for x1 in range(x0 + 1, width + 1):
                    inside = p[y0:y1, x0:x1].sum()
                    iou = inside / ((y1 - y0) * (x1 - x0) + p.sum() - inside)
                    if iou > best:
                        best, found = iou, (y0, y1, x0, x1)
    return found


def test_every_interval_once():
    rows = intervals(4)
    assert rows.shape == (10, 4)
    assert len({tuple(row) for row in rows.tolist()}) == 10
    assert all("01" not in "".join(str(int(one)) for one in row).strip("0") for row in rows.tolist())


def test_the_rectangle_is_the_best_of_all():
    torch.manual_seed(0)
    p = torch.rand(2, 3, 5, 6) ** 3
    boxes = best_rectangle(p, intervals(5), intervals(6))
    for row in range(2):
        for column in range(3):
            y0, y1, x0, x1 = tried(p[row, column])
            wanted = torch.zeros(5, 6)
            wanted[y0:y1, x0:x1] = 1
            assert torch.equal(boxes[row, column], wanted)


def test_certain_cells_give_their_own_box_and_sharpness_shrinks_a_vague_one():
    p = torch.zeros(1, 1, 8, 8)
    p[..., 2:5, 3:7] = 1
    assert torch.equal(best_rectangle(p, intervals(8), intervals(8)), p)
    y, x = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    vague = torch.exp(-((y - 3.5) ** 2 + (x - 3.5) ** 2) / 12)[None, None]
    areas = [best_rectangle(vague, intervals(8), intervals(8), sharpness).sum() for sharpness in (0.5, 1.0, 3.0)]
    assert areas[0] > areas[1] > areas[2]
