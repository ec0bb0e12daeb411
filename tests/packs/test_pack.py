"""The pack: pixels against a computation by hand, and everything that can befall its files and processes."""

import json
import os
import pickle
import re
import resource
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chestmap.datasets.source import Source
from chestmap.errors import BadInput, BadModel
from chestmap.imaging.canvas import CanvasSettings, canvas_frame, on_canvas
from chestmap.imaging.pack_rows import CHUNK, Job, pack_all, pack_chunk
from chestmap.packs.build import WORTH_A_PROCESS, Pack, PackSettings, make_pack, open_pack
from chestmap.storage.manifest import seal
from chestmap.types import Box, Radiograph
from datasets.toys import source_in, write_png

SMALL = PackSettings(width=32, height=32)


def packed(source: Source, folder: Path, **more) -> tuple[Pack, int]:
    """The pack, and how many images had to be read."""
    seen = [0]
    pack = make_pack(source, folder, more.pop("settings", SMALL), progress=lambda done, _: seen.__setitem__(0, done), **more)
    return pack, seen[0]


# ---- from radiograph to canvas


def test_shrinking_averages_areas_and_pads_with_black():
    pixels = np.random.default_rng(0).random((64, 128), dtype=np.float32)
    canvas, frame = on_canvas(Radiograph(pixels=pixels, image_id="a"), CanvasSettings(width=32, height=32))
    by_hand = np.rint(pixels.reshape(16, 4, 32, 4).mean(axis=(1, 3)) * 255)
    assert np.abs(canvas[8:24].astype(float) - by_hand).max() <= 1
    assert not canvas[:8].any()
    assert not canvas[24:].any()
    assert frame.matrix == (0.25, 0, 0, 0, 0.25, 8)

    squashed, frame = on_canvas(Radiograph(pixels=pixels, image_id="a"), CanvasSettings(width=32, height=32, fit="squash"))
    assert np.abs(squashed - np.rint(pixels.reshape(32, 2, 32, 4).mean(axis=(1, 3)) * 255)).max() <= 1
    assert frame.matrix == (0.25, 0, 0, 0, 0.5, 0)


def test_an_axis_that_shrinks_is_averaged_though_the_other_grows():
    stripes = np.tile(np.array([0, 0, 0, 1], np.float32), (8, 16))  # 8 rows, 64 columns
    canvas, _ = on_canvas(Radiograph(pixels=stripes, image_id="a"), CanvasSettings(width=16, height=16, fit="squash"))
    assert (canvas == 64).all()  # a quarter of 255, wherever one looks


def test_image_space_decides_where_the_pixels_go():
    pixels = np.ones((50, 50), dtype=np.float32)  # stored squashed; the publisher's frame is twice as wide as high
    canvas, frame = on_canvas(
        Radiograph(pixels=pixels, image_id="a", size=(1000.0, 500.0)), CanvasSettings(width=40, height=40)
    )
    assert canvas[10:30].min() == 255
    assert canvas.sum() == 255 * 40 * 20
    assert frame.to_canvas([Box("Mass", 0, 0, 1000, 500)])[0].corners == (0, 10, 40, 30)


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(8, 600), st.integers(8, 600))
def test_the_frame_is_whole_pixels_within_half_a_pixel_of_the_aspect(width, height, canvas_width, canvas_height):
    frame = canvas_frame((width, height), CanvasSettings(width=canvas_width, height=canvas_height))
    (box,) = frame.to_canvas([Box("Mass", 0, 0, width, height)])
    rounded = np.rint(box.corners)
    assert np.allclose(box.corners, rounded, atol=1e-6)
    assert 0 <= rounded[0] < rounded[2] <= canvas_width
    assert 0 <= rounded[1] < rounded[3] <= canvas_height
    scale = min(canvas_width / width, canvas_height / height)
    assert abs(box.x1 - box.x0 - max(width * scale, 1)) <= 0.5 + 1e-6
    assert abs(box.y1 - box.y0 - max(height * scale, 1)) <= 0.5 + 1e-6


# ---- making and opening


def test_rows_hold_the_images_and_where_they_lie(tmp_path):
    source = source_in(tmp_path / "images", 5, space=1024.0)
    pack, read = packed(source, tmp_path / "pack", settings=PackSettings(width=24, height=20, fit="squash"))
    assert read == 5
    assert pack.images.shape == (5, 20, 24)
    stored = write_png(source.path(3), 3)
    by_hand = stored.reshape(20, 2, 24, 2).mean(axis=(1, 3))
    (row,) = pack.rows(["00003"])
    assert np.abs(pack.images[row].astype(float) - by_hand).max() <= 1
    assert pack.frame(row).image == (1024, 1024)
    assert pack.frame(row).to_canvas([Box("Mass", 0, 0, 1024, 1024)])[0].corners == pytest.approx((0, 0, 24, 20))


def test_nothing_is_read_twice_and_only_what_changed_again(tmp_path):
    source = source_in(tmp_path / "images", 6)
    folder = tmp_path / "pack"
    first, read = packed(source, folder)
    before = first.images[:].copy()
    assert (read, packed(source, folder)[1]) == (6, 0)

    os.utime(source.path(1), (0, 0))  # another time, the same content
    write_png(source.path(4), 99)
    again, read = packed(source, folder)
    assert read == 2
    assert [row for row in range(6) if not (again.images[row] == before[row]).all()] == [4]
    assert again.fingerprint != first.fingerprint
    write_png(source.path(4), 4)
    assert packed(source, folder)[0].fingerprint == first.fingerprint

    source.path(2).unlink()  # a file that went away is not missed
    assert packed(source, folder)[1] == 0


def test_new_images_are_added_and_the_order_of_packing_does_not_matter(tmp_path):
    whole = source_in(tmp_path / "images", 7)
    part = whole.select(np.array([5, 2]))
    folder = tmp_path / "pack"
    packed(part, folder)
    grown, read = packed(whole, folder)
    assert read == 5
    assert grown.ids == ("00005", "00002", "00000", "00001", "00003", "00004", "00006")
    at_once, _ = packed(whole, tmp_path / "other")
    assert grown.fingerprint == at_once.fingerprint
    ids = list(whole.ids)
    assert (grown.images[grown.rows(ids)] == at_once.images[at_once.rows(ids)]).all()
    assert packed(part, folder)[0].ids == grown.ids


def test_a_machine_short_of_memory_sets_no_image_aside(tmp_path, monkeypatch):
    """The same call goes on later: what was kept as faulty would never be read again."""
    source = source_in(tmp_path / "films", 3)

    def short(*_):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("chestmap.imaging.pack_rows.read_radiograph", short)
        with pytest.raises(MemoryError):
            make_pack(source, tmp_path / "pack", PackSettings(width=8, height=8), workers=1)
    pack = make_pack(source, tmp_path / "pack", PackSettings(width=8, height=8), workers=1)
    assert not pack.set_aside


def test_bad_files_are_set_aside_with_their_reason(tmp_path):
    source = source_in(tmp_path / "images", 5)
    source.path(1).write_bytes(b"not a picture")
    source.path(3).unlink()
    pack, read = packed(source, tmp_path / "pack")
    assert read == 5
    assert set(pack.set_aside) == {"00001", "00003"}
    assert len(pack) == 3
    assert "no such file" in pack.set_aside["00003"]
    table = pl.read_csv(tmp_path / "pack" / "set_aside.csv", schema_overrides={"image_id": pl.String})
    assert dict(table.iter_rows()) == dict(pack.set_aside)
    with pytest.raises(BadModel, match=r"1 of 2 images have no pixels, the first is 00003: .*no such file"):
        pack.rows(["00000", "00003"])

    assert packed(source, tmp_path / "pack")[1] == 0  # they are not tried again …
    write_png(source.path(1), 1)
    write_png(source.path(3), 3)
    mended, read = packed(source, tmp_path / "pack")  # … until they change
    assert (read, dict(mended.set_aside)) == (2, {})


PACKING = """
import sys
if __name__ == "__main__":  # what a process of the pool imports must stay small
    import time
    from pathlib import Path
    import numpy as np, polars as pl
    from chestmap.packs.build import PackSettings, make_pack
    from chestmap.datasets.source import COLUMNS, Source
    from chestmap.types import Findings
    root, folder = Path(sys.argv[1]), Path(sys.argv[2])
    ids = sorted(path.stem for path in root.glob("*.png"))
    none = [None] * len(ids)
    columns = [ids, ids, [f"{one}.png" for one in ids], none, none, none, none, none]
    images = pl.DataFrame(dict(zip(COLUMNS, columns)), schema=COLUMNS)
    source = Source(name="toy", findings=Findings(("Mass",)), root=root, images=images, labels=np.zeros((len(ids), 1), dtype=np.int8))
    def tell(done, total):
        print(done, flush=True)
        time.sleep(0.3)
    make_pack(source, folder, PackSettings(width=32, height=32), 2, progress=tell)
"""


def test_killed_in_the_middle_it_goes_on_where_it_was(tmp_path):
    count = 2 * WORTH_A_PROCESS + 40
    source = source_in(tmp_path / "images", count)
    folder = tmp_path / "pack"
    command = [sys.executable, "-c", PACKING, str(source.root), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        children = children_of(process.pid)
        assert not any("libtorch" in Path(f"/proc/{one}/maps").read_text() for one in (process.pid, *children))
        process.send_signal(signal.SIGKILL)
    noted = int(lines[-1])
    assert 3 * CHUNK <= noted < count
    assert len(children) >= 2
    wait_until(lambda: not any(map(alive, children)))  # no process is left behind

    with pytest.raises(BadModel, match="packing was not finished"):
        open_pack(folder)
    pack, read = packed(source, folder)
    assert read <= count - noted
    assert pack.damaged() == []
    assert pack.fingerprint == packed(source, tmp_path / "whole")[0].fingerprint


@pytest.mark.parametrize(
    ("name", "damage"),
    [("state.bin", lambda content: content[:-5]), ("ids.txt", lambda content: b"\xff" + content[1:])],
)
def test_a_record_damaged_while_packing_is_made_again_or_refused(name, damage, tmp_path, monkeypatch):
    """Before the pack is sealed no sum guards its records."""
    source, folder = source_in(tmp_path / "films", 3), tmp_path / "pack"
    with monkeypatch.context() as patch:
        patch.setattr("chestmap.packs.build.fingerprint_of", without_memory)
        with pytest.raises(MemoryError):
            packed(source, folder)
    (folder / name).write_bytes(damage((folder / name).read_bytes()))
    if name == "ids.txt":
        with pytest.raises(BadModel, match=r"ids.txt or set_aside.csv is damaged \(UnicodeDecodeError\); delete the folder"):
            packed(source, folder)
        return
    assert packed(source, folder)[0].fingerprint == packed(source, tmp_path / "whole")[0].fingerprint


def without_memory(*_: object) -> None:
    raise MemoryError


def children_of(pid: int) -> list[int]:
    """Those of all of its threads."""
    return [int(one) for path in Path(f"/proc/{pid}/task").glob("*/children") for one in path.read_text().split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_an_image_that_kills_its_process_is_found_and_set_aside(tmp_path):
    """The image is a pipe whose writer kills whoever opens it: what a fault in a decoder looks like from outside."""
    source = source_in(tmp_path / "images", 3)
    deadly = source.path(2)
    deadly.unlink()
    os.mkfifo(deadly)
    killer = subprocess.Popen([sys.executable, "-c", KILL_READERS, str(deadly)])
    try:
        target = tmp_path / "images.bin"
        target.write_bytes(bytes(3 * 32 * 32))
        jobs = [Job(row, source.path(row), None) for row in range(3)]
        results = [one for some in pack_all(jobs, target, SMALL, 2) for one in some]
    finally:
        killer.kill()
        killer.wait()
    assert sorted(one.row for one in results) == [0, 1, 2]
    (aside,) = [one for one in results if one.reason]
    assert aside.row == 2
    assert aside.reason == f"{deadly}: the process that read it died (out of memory, or a fault in a decoder)"


KILL_READERS = """
import os, signal, sys
from pathlib import Path
path = sys.argv[1]
while True:
    pipe = os.open(path, os.O_WRONLY)  # returns when a reader is there
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and int(process.name) != os.getpid():
                if any(os.readlink(one) == path for one in (process / "fd").iterdir()):
                    os.kill(int(process.name), signal.SIGKILL)
        except OSError:
            pass
    os.close(pipe)
"""


def test_many_readers_at_once(tmp_path):
    source = source_in(tmp_path / "images", 40)
    pack, _ = packed(source, tmp_path / "pack")
    expected = pack.images[:].sum(dtype=np.int64)
    with ThreadPoolExecutor(4) as threads:
        assert set(threads.map(lambda _: int(pack.images[:].sum(dtype=np.int64)), range(8))) == {int(expected)}
    code = "import pickle,sys; p=pickle.load(sys.stdin.buffer); print(p.images[:].astype('int64').sum(), 'torch' in sys.modules)"
    sent = pickle.dumps(pack)
    assert len(sent) < 1000  # a reader maps the file itself
    told = subprocess.run([sys.executable, "-c", code], input=sent, capture_output=True, check=True).stdout
    assert told.split() == [str(expected).encode(), b"False"]


def test_what_it_says_where_no_terminal_is(tmp_path, capsys):
    make_pack(source_in(tmp_path / "images", 3), tmp_path / "pack", SMALL)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "pack: 3 images"
    assert re.fullmatch(r"pack: 3 images in \d+\.\d s \(\d+/s\)", lines[1])
    assert len(lines) == 2
    make_pack(source_in(tmp_path / "images", 3), tmp_path / "other", SMALL, progress=False)
    assert capsys.readouterr().err == ""


def test_two_that_pack_at_once_do_not_disturb_each_other(tmp_path):
    source = source_in(tmp_path / "images", 30)
    folder = tmp_path / "pack"
    with ThreadPoolExecutor(3) as threads:
        made = list(threads.map(lambda _: packed(source, folder), range(3)))
    assert sorted(read for _, read in made) == [0, 0, 30]
    assert len({pack.fingerprint for pack, _ in made}) == 1


# ---- what is refused


def test_damage_is_found_and_mended(tmp_path):
    source = source_in(tmp_path / "images", 30)
    folder = tmp_path / "pack"
    pack, _ = packed(source, folder)
    fingerprint = pack.fingerprint

    with (folder / "images.bin").open("r+b") as file:  # a row that the look at opening does not see
        file.seek(2 * 32 * 32 + 5)
        file.write(b"\x07\x08")
    assert open_pack(folder).damaged() == ["00002"]
    mended, read = packed(source, folder, verify=True)
    assert (read, mended.damaged(), mended.fingerprint) == (1, [], fingerprint)

    with (folder / "images.bin").open("r+b") as file:  # the first row is always looked at
        file.write(b"\x07\x08")
    with pytest.raises(
        BadModel, match=r'damaged \(the pixels of 00000 changed after packing\); run "chestmap data pack" again'
    ):
        open_pack(folder)
    mended, read = packed(source, folder)
    assert (read, mended.fingerprint) == (1, fingerprint)

    state = bytearray((folder / "state.bin").read_bytes())
    state[1] ^= 255
    (folder / "state.bin").write_bytes(state)
    with pytest.raises(BadModel, match=r"state\.bin: changed after it was written"):
        open_pack(folder)
    mended, read = packed(source, folder)
    assert (read, mended.fingerprint) == (30, fingerprint)


def test_a_kill_before_the_first_image_leaves_nothing_in_the_way(tmp_path):
    """The files in the order in which they come to be: whichever is missing, packing begins or goes on."""
    source = source_in(tmp_path / "images", 3)
    whole = tmp_path / "whole"
    fingerprint = packed(source, whole)[0].fingerprint
    for made in (["ids.txt"], ["ids.txt", "images.bin"], ["ids.txt", "images.bin", "state.bin"]):
        folder = tmp_path / str(len(made))
        folder.mkdir()
        for name in made:
            (folder / name).write_bytes((whole / name).read_bytes())
        assert packed(source, folder)[0].fingerprint == fingerprint


def test_another_canvas_source_or_folder_is_refused(tmp_path):
    source = source_in(tmp_path / "images", 3)
    folder = tmp_path / "pack"
    packed(source, folder)
    other = PackSettings(width=64, height=32, fit="squash")
    with pytest.raises(
        BadModel, match="holds 32×32 letterbox, asked for 64×32 squash; choose another folder for this canvas"
    ):
        make_pack(source, folder, other, progress=False)
    with pytest.raises(BadModel, match="holds 32×32 letterbox"):
        open_pack(folder, settings=other)
    with pytest.raises(BadModel, match="holds images of toy, not of nih"):
        open_pack(folder, source_in(tmp_path / "images", 3, name="nih"))
    with pytest.raises(BadModel, match="lacks 2 of the 5 images of toy, the first is 00003; pack the source again"):
        open_pack(folder, source_in(tmp_path / "images", 5))
    with pytest.raises(BadInput, match="holds images of toy, none of this toy; choose another folder"):
        make_pack(source_in(tmp_path / "images", 3, start=100), folder, SMALL, progress=False)
    with pytest.raises(BadModel, match="not a pack"):
        open_pack(tmp_path / "images")


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("pack.json", b"{", r"pack\.json: changed after it was written"),
        ("pack.json", b'{"settings": {"width": -1}}', r"pack\.json: changed after it was written"),
        ("ids.txt", b"00000\n", r"ids\.txt: changed after it was written"),
        ("images.bin", b"\0" * 3000, "3 ids, 3 records and 3000 bytes of pixels disagree"),
        ("state.bin", b"", r"state\.bin: changed after it was written"),
        ("ids.txt", None, "No such file"),
    ],
)
def test_broken_files_are_named(tmp_path, file, content, message):
    folder = tmp_path / "pack"
    packed(source_in(tmp_path / "images", 3), folder)
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(content)
    with pytest.raises(BadModel, match=message) as caught:
        open_pack(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


def test_an_older_form_is_refused(tmp_path):
    folder = tmp_path / "pack"
    packed(source_in(tmp_path / "images", 3), folder)
    about = json.loads((folder / "pack.json").read_text())
    (folder / "pack.json").write_text(json.dumps(about | {"form": 0}))
    seal(folder, ["pack.json"])
    with pytest.raises(BadModel, match="a pack of form 0, this version reads form 1; delete it and pack again"):
        open_pack(folder)


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path, monkeypatch):
    source = source_in(tmp_path / "images", 2 * CHUNK)
    folder = tmp_path / "pack"
    with monkeypatch.context() as patch:
        patch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000})())
        with pytest.raises(BadInput, match=r"0.00 GB are needed and 0.00 GB are free; make room or choose a smaller canvas"):
            packed(source, folder)
    assert packed(source, folder)[1] == 2 * CHUNK

    jobs = [Job(row, source.path(row), None) for row in range(CHUNK)]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10 * 32 * 32, hard))  # room for fewer rows
    try:
        with pytest.raises(BadInput, match=r"images.bin: File too large; make room and run again: finished images are kept"):
            pack_chunk(jobs, folder / "images.bin", SMALL)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    source = source_in(tmp_path / "images", 2)
    with pytest.raises(BadInput, match=r"00000.png.*; choose a folder that can be written"):
        make_pack(source, source.path(0) / "pack", SMALL, progress=False)
    if os.geteuid():  # root writes everywhere
        (tmp_path / "locked").mkdir(mode=0o500)
        with pytest.raises(BadInput, match=r"Permission denied; choose a folder that can be written"):
            make_pack(source, tmp_path / "locked" / "pack", SMALL, progress=False)
