"""Views: training on kept features is training on the views' pixels, and what is kept is written once."""

import numpy as np
import pytest
import torch

from chestmap.errors import BadModel, BadSettings
from chestmap.nn.backbone import Backbone, BackboneSettings
from chestmap.packs.augment import AugmentSettings
from chestmap.packs.loader import Loader, LoaderSettings
from chestmap.packs.views import ViewSettings
from chestmap.training.view_writer import views_of, with_views
from training.small import small_data, write_dataset

AUGMENT = AugmentSettings(flip=0.5, translate=0.1, rotate_degrees=10, brightness=0.1)
TRUNK = BackboneSettings(name="test_resnet", stages=(3, 4), frozen=2)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return small_data(write_dataset(tmp_path_factory.mktemp("views") / "data"))


@pytest.fixture(scope="module")
def kept(data, tmp_path_factory):
    torch.manual_seed(0)
    place = tmp_path_factory.mktemp("kept")
    return views_of(data.train.pack, TRUNK, AUGMENT, ViewSettings(count=3), place, progress=False), place


def backbone():
    torch.manual_seed(0)
    return Backbone(TRUNK).eval()


def batches(part, **settings):
    return list(Loader(part=part, settings=LoaderSettings(batch_size=8), seed=3, **settings).epoch(1))


def test_without_augmentation_the_plain_view_is_shown(data, kept):
    shown, pixels = with_views(data, kept[0]).train, data.train
    for seen, image in zip(batches(shown, shuffle=False), batches(pixels, shuffle=False), strict=True):
        assert (seen.ids, seen.frames, seen.boxes) == (image.ids, image.frames, image.boxes)
        with torch.no_grad():
            torch.testing.assert_close(seen.images, backbone().kept(image.images), atol=2e-3, rtol=2e-3)


def test_an_epoch_shows_views_with_the_frames_they_were_drawn_with(data, kept):
    views = kept[0]
    shown = with_views(data, views).train
    first, again = batches(shown, augment=AUGMENT), batches(shown, augment=AUGMENT)
    seen = set()
    for one, other in zip(first, again, strict=True):
        assert one.frames == other.frames
        assert torch.equal(one.images, other.images)
        for image_id, frame, features in zip(one.ids, one.frames, one.images, strict=True):
            base, row = shown.base_frame(image_id), shown.pack.row_of[image_id]
            numbers = [number for number in (1, 2, 3) if views.frame(base, image_id, number) == frame]
            assert numbers
            assert np.array_equal(features.numpy().astype(np.float16), views.features[row, numbers[0]])
            seen.update(numbers)
    assert seen == {1, 2, 3}


def test_views_are_written_once_and_known_by_what_they_depend_on(data, kept):
    views, place = kept
    before = (views.folder / "views.json").stat().st_mtime_ns
    torch.manual_seed(0)
    again = views_of(data.train.pack, TRUNK, AUGMENT, ViewSettings(count=3), place, progress=False)
    assert again.folder == views.folder
    assert (views.folder / "views.json").stat().st_mtime_ns == before
    torch.manual_seed(1)  # other weights
    other = views_of(data.train.pack, TRUNK, AUGMENT, ViewSettings(count=1), place, progress=False)
    assert other.folder != views.folder
    assert with_views(data, views).train.fingerprint not in {
        data.train.fingerprint,
        with_views(data, other).train.fingerprint,
    }


def test_what_is_drawn_next_does_not_depend_on_whether_views_were_there(data, tmp_path):
    """Else the same seed trains another network where a run was killed after its views were written."""
    drawn = []
    for _ in range(2):
        torch.manual_seed(0)
        views_of(data.train.pack, TRUNK, AUGMENT, ViewSettings(count=1), tmp_path, progress=False)
        drawn.append(torch.rand(3))
    assert torch.equal(*drawn)


def test_damaged_views_and_a_backbone_without_a_trunk_are_refused(data, tmp_path):
    torch.manual_seed(0)
    views = views_of(data.train.pack, TRUNK, AUGMENT, ViewSettings(count=0), tmp_path, progress=False)
    with (views.folder / "features.bin").open("ab") as file:
        file.truncate(100)
    torch.manual_seed(0)
    with pytest.raises(BadModel, match=r"features\.bin is not whole; delete the folder"):
        views_of(data.train.pack, TRUNK, AUGMENT, ViewSettings(count=0), tmp_path, progress=False)
    with pytest.raises(BadSettings, match="no frozen stages"):
        views_of(data.train.pack, BackboneSettings(name="test_resnet"), AUGMENT, ViewSettings(), tmp_path, progress=False)
