"""Mistakes as people type them, over all verbs: each ends in a line or two that say what to do, with exit code 1 or 2.

In one process, and nothing that takes long is begun: each call is refused before it starts.
"""

import json
import re
import shlex
import shutil
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image

from chestmap.api.model_names import model_folder
from chestmap.cli import call
from predictions.small import write_predictions

LINES, LONGEST = 2, 400
"""Of stderr, at most, and the letters of each."""

CONFIG = """
[data]
source = { name = "folder", root = "films", labels = "labels.csv" }
split = { name = "patients", validation = 0.3, test = 0.3 }
pack = { width = 32, height = 32 }

[run]
workers = 0
tensorboard = false

[method]
name = "cam"
backbone = { name = "test_resnet", output_stride = 8 }

[method.classify]
epochs = 1
"""

MISTAKES = """
trian own.toml                                                  | did you mean 'train'
--foo                                                           | no such option: --foo
data chek                                                       | did you mean 'check'
data annotations exprot                                         | did you mean 'export'
model calibrat run                                              | did you mean 'calibrate'
methods cam                                                     | unexpected extra argument
configs --jsn                                                   | --json

init                                                            | missing argument
init nowhere                                                    | nowhere: no such folder
init film.png                                                   | film.png: is a file; name the folder
init empty                                                      | no PNG, JPEG or DICOM image
init texts                                                      | no PNG, JPEG or DICOM image
init bare                                                       | no table of labels; write labels.csv
init done                                                       | is there already; train with it, or write it anew with --again
init films --agin                                               | --again

all nowhere.toml                                                | nowhere.toml: no such settings file
all nowhere                                                     | nowhere: no such
all own.toml --set data.split.name=patiens                      | did you mean "patients"
all own.toml --pictures -1                                      | --pictures
all own.toml --root nowhere                                     | nowhere: no such folder

train                                                           | missing argument
train nowhere.toml                                              | nowhere.toml: no such settings file
train own.tml                                                   | did you mean "own.toml"
train ham/image-lables                                          | did you mean "ham/image-labels"
train films                                                     | films: is a folder
train film.png                                                  | film.png: cannot be read as text
train broken.toml                                               | broken.toml: not TOML
train headless.toml                                             | method
train own.toml --set method.name=hamm                           | did you mean "ham"
train own.toml --set method.backbone.name=resnet81              | did you mean "resnet
train own.toml --set run.seeed=3                                | did you mean "seed"
train own.toml --set seed                                       | expected KEY=VALUE
train own.toml --set data.pack.width=wide                       | data.pack.width
train own.toml --set data.pack.width=-5                         | data.pack.width
train own.toml --set run.device=gpu                             | run.device
train own.toml --set run.precision=fp16                         | run.precision
train own.toml --set data.source.labels=lables.csv              | did you mean "labels.csv"
train own.toml --set data.source.name=nhi                       | did you mean "nih"
train own.toml --set data.source.lables=labels.csv              | did you mean "labels"
train own.toml --set method.classify.learning_rate=-1           | learning_rate
train own.toml --set method.classify.epochs=0                   | epochs
train own.toml --set data.split.validation=1.5                  | data.split.validation
train own.toml --set data.split.name=official                   | official
train own.toml --root nowhere                                   | nowhere: no such folder
train own.toml --devices 0                                      | --devices
train own.toml --search                                         | [search]
train own.toml --out film.png                                   | film.png

predict                                                         | missing argument
predict nowhere film.png --out out                              | nowhere: no such folder, and no known model
predict startr film.png --out out                               | did you mean "starter"
predict film.png starter --out out                              | film.png: is a file, no model; MODEL comes first
predict predictions film.png --out out                          | no model.json
predict hf://me film.png --out out                              | hf://OWNER/NAME
predict starter nofilm.png --out out                            | nofilm.png
predict starter flim.png --out out                              | did you mean "film.png"
predict starter 'none*.png' --out out                           | none*.png
predict starter empty --out out                                 | no PNG, JPEG or DICOM file
predict starter texts --out out                                 | no PNG, JPEG or DICOM file
predict starter broken.zip --out out                            | broken.zip
predict starter film.png --out film.png                         | film.png
predict starter film.png --out out --write cvs                  | did you mean "csv"
predict starter film.png --out out --engine onxx                | did you mean "onnx"
predict starter film.png --out out --device gpu                 | device
predict starter film.png --out out --precision fp16             | precision
predict starter film.png --out out --engine onnx --precision bf16 | computes in fp32
predict starter film.png --out out --batch-size 0               | --batch-size
predict starter film.png --out out --workers -1                 | --workers
predict starter film.png --out out --shard 8/8                  | allowed are 0/8 to 7/8
predict starter film.png --out out --shard first                | expected i/n
predict starter film.png --out out --shard 0/2 --cluster local  | --shard or --cluster, not both
predict starter film.png --out out --deidentify                 | --write dicom
predict starter film.png --write csv                            | need --out FOLDER
predict starter film.png --out out --json                       | leave --out away
predict starter nofilm.png                                      | nofilm.png: no such file or folder
predict starter texts                                           | texts: no PNG, JPEG or DICOM file
predict starter broken.zip                                      | broken.zip: ZIP archive cannot be opened
predict starter --out out                                       | name its images
predict starter --source folder --out out                       | --source folder: needs --root
predict starter --source nhi --root films --out out             | did you mean "nih"
predict starter film.png --source folder --root films --out out | without further inputs
predict run --part tset                                         | did you mean "test"

evaluate                                                        | missing argument
evaluate nowhere                                                | nowhere
evaluate film.png                                               | film.png
evaluate films                                                  | films
evaluate predictions                                            | name its images with --run RUN
evaluate predictions --source folder                            | --source folder: needs --root
evaluate predictions --source folder --root films               | none of the
evaluate predictions --source folder --root films --set labels=lables.csv | did you mean "labels.csv"
evaluate predictions --source folder --root films --set labels=labels.csv --split offical | did you mean "official"
evaluate predictions --source folder --root films --set labels=labels.csv --split patients --part tset | did you mean "test"
evaluate predictions --source folder --root films --set labels=labels.csv --preset hamm | did you mean "ham"
evaluate predictions --source folder --root films --set labels=labels.csv --score-set resample=5 | did you mean "resamples"
evaluate predictions --source folder --root films --set labels=labels.csv --score-set resamples=many | resamples
evaluate predictions --run nowhere                              | no config.toml; expected a run folder
evaluate predictions --run films                                | no config.toml; expected a run folder

compare predictions                                             | missing argument
compare predictions nowhere --source folder --root films --set labels=labels.csv | nowhere: no such folder; expected a run folder
compare predictions films --source folder --root films --set labels=labels.csv | films: no predictions in it; expected a run folder

report nowhere                                                  | nowhere
report film.png                                                 | film.png
report films --source folder --root films                       | expected a run folder or a predictions folder
report predictions --published ham/tabel-3                      | did you mean "ham/table-3"
report predictions --pictures -3                                | --pictures

export starter                                                  | give --out FOLDER
export starter --out out --format onxx                          | is not one of 'onnx'
export nowhere --out out                                        | nowhere: no such folder
export starter --out films                                      | films: is not empty
export starter --into --format onnx                             | --into alone

model calibrate starter                                         | name its images
model calibrate starter --scaling plat                          | scaling
model calibrate starter --aim youdem                            | aim
model card nowhere                                              | nowhere: no such folder
model card starter --predictions predictions --metrics m.json   | give one of them
model card starter --metrics m.json                             | m.json
model check nowhere                                             | nowhere
model push starter me/mine                                      | hf://OWNER/NAME
model pull me/mine --out out                                    | hf://OWNER/NAME
model pull hf://me/mine --out films                             | films
model tune nowhere                                              | nowhere: no such folder
model tune starter nofilm.png                                   | nofilm.png

data check nhi films                                            | did you mean "nih"
data check nih films                                            | Data_Entry_2017
data check folder nowhere                                       | nowhere: no such folder
data check folder film.png                                      | film.png
data check folder films --set lables=labels.csv                 | did you mean "labels"
data check folder films --set labels=lables.csv                 | did you mean "labels.csv"
data check folder films --split patiens                         | did you mean "patients"
data split folder films --out out --name patiens                | did you mean "patients"
data split folder films --out out --split-set validation=2      | validation
data split folder films                                         | missing option '--out'
data pack folder films --out out --width 0                      | width
data pack folder films --out out --fit letterbx                 | did you mean "letterbox"
data pack folder films --out film.png                           | film.png
data phantom out --images 0                                     | --images
data phantom out --side 10                                      | --side
data phantom out --set mask=true                                | did you mean "masks"
data phantom film.png --images 1                                | film.png
data deidentify nofile.dcm --out out                            | nofile.dcm
data deidentify film.png --out out                              | 1 files were left out
data from-reviews --store nowhere --out out                     | nowhere
data from-reviews --store films --out out                       | films
data annotations export folder films --out b.json --form yolo   | coco
data annotations export folder films --out b.json --predictions nofile.json | nofile.json
data annotations import nofile.json --images films --out out    | nofile.json
data annotations import film.png --images films --out out       | film.png
data annotations import marks.json --images nowhere --out out   | nowhere
data annotations import marks.json --images films --out films   | films: is there already; give a new folder

reproduce ham/tabel-3                                           | did you mean "ham/table-3"
reproduce ham/table-3                                           | --root
reproduce ham/table-3 --root nowhere                            | nowhere
reproduce ham/table-3 --root films --source nhi                 | did you mean "nih"
reproduce ham/table-3 --root films --row hamm                   | row
reproduce ham/table-3 --root films --fold 9                     | fold
reproduce ham/table-3 --root films --configs nowhere            | nowhere

demo --images 3                                                 | --images
demo --side 10                                                  | --side
demo --epochs 0                                                 | --epochs
demo --out film.png                                             | film.png

serve --store store                                             | missing argument
serve starter                                                   | missing option '--store'
serve nowhere --store store                                     | nowhere: no such folder
serve starter --store store --port 99999                        | --port
serve starter --store store --host 0.0.0.0                      | give --token-file
serve starter --store store --serve-set batchsize=3             | did you mean "batch_size"
serve starter --store store --serve-set batch_size=many         | batch_size
serve starter --store store --certificate cert.pem              | give both
serve starter --store store --token-file nofile                 | nofile
serve starter --store store --to PACS@host:104                  | give --dicom PORT as well
serve starter --store film.png                                  | film.png

node                                                            | expected MODEL and --store
node starter --store store                                      | give --to TITLE@HOST:PORT or --stow URL
node starter --store store --to PACS                            | TITLE@HOST:PORT
node starter --store store --to PACS@host:104 --write srr       | did you mean "sr"
node starter --store store --to PACS@host:104 --host 0.0.0.0    | --allow
node starter --store store --to PACS@host:104 --node-set foo=1  | foo
node starter --store store --stow archive                       | expected http(s)://
node nowhere --store store --to PACS@host:104                   | nowhere: no such folder
node --status nowhere                                           | nowhere
node --retry-dead films                                         | films

check nowhere                                                   | nowhere
check film.png                                                  | film.png
check texts                                                     | texts
"""
MARKS = {
    "images": [{"id": 1, "file_name": "0.png", "width": 32, "height": 32}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [2, 2, 8, 8]}],
    "categories": [{"id": 1, "name": "Mass"}],
}
PROGRESS = re.compile(r"\w+: [\d,]+ \w+( in .*)?|[\d,]+ (images|files in out)")
CASES = [tuple(part.strip() for part in line.split(" | ")) for line in MISTAKES.splitlines() if line]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Films with labels, a config, a run with a model, predictions, and what people give by mistake."""
    folder = tmp_path_factory.mktemp("place")
    for name in ("films", "empty", "texts", "bare", "done", "run"):
        (folder / name).mkdir()
    random, rows = np.random.default_rng(1), ["image,patient_id,Mass,Effusion"]
    for number in range(24):
        Image.fromarray(random.integers(0, 255, (32, 32), dtype=np.uint8)).save(folder / "films" / f"{number}.png")
        rows.append(f"{number}.png,p{number // 2},{number % 2},{number % 3 % 2}")
    (folder / "films" / "labels.csv").write_text("\n".join([*rows, ""]))
    shutil.copy(folder / "films" / "0.png", folder / "film.png")
    shutil.copy(folder / "films" / "0.png", folder / "bare" / "0.png")
    shutil.copytree(folder / "films", folder / "done", dirs_exist_ok=True)
    (folder / "texts" / "notes.txt").write_text("nothing to see")
    (folder / "broken.zip").write_bytes(b"PK\x03\x04broken")
    (folder / "own.toml").write_text(CONFIG)
    (folder / "done" / "chestmap.toml").write_text(CONFIG)
    (folder / "broken.toml").write_text("[data\n")
    (folder / "headless.toml").write_text(CONFIG[: CONFIG.index("[method]")])
    (folder / "marks.json").write_text(json.dumps(MARKS))
    (folder / "run" / "config.toml").write_text(CONFIG.replace("films", str(folder / "films")))
    shutil.copytree(model_folder("starter"), folder / "run" / "model")
    write_predictions(folder / "predictions", [f"{number}.png" for number in range(24)])
    return folder


@pytest.mark.parametrize(("line", "said"), CASES, ids=[line for line, _ in CASES])
def test_a_mistake_is_answered(line, said, place, monkeypatch, capsys):
    for module, verbs in {"pynetdicom": ("node", "data deidentify"), "fastapi": ("serve", "data from-reviews")}.items():
        if line.startswith(verbs) and find_spec(module) is None:
            pytest.skip(f"{module} is not installed")
    monkeypatch.chdir(place)
    monkeypatch.setenv("CHESTMAP_CACHE", str(place / "kept"))
    words = shlex.split(line)
    before = sorted(place.rglob("*"))
    code = call(words)
    told = [one for one in capsys.readouterr().err.splitlines() if not PROGRESS.fullmatch(one)]
    text = "\n".join(told)
    assert code in {1, 2}, text
    assert said.lower() in text.lower()
    assert "Traceback" not in text
    assert 1 <= len(told) <= LINES, text
    assert max(map(len, told)) <= LONGEST, text
    assert not [path for path in sorted(place.rglob("*")) if path not in before and path.suffix in {".safetensors", ".html"}]


def test_there_are_enough_of_them():
    assert len(CASES) >= 120
    assert len({line.split()[0] for line, _ in CASES if not line.startswith("-")}) >= 18
