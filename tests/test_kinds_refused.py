"""What is no model, or not this one: told on the command line with the remedy and exit code 2, without a traceback."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import transforms

import test_onnx_refused as onnx_files
import whycam
from kind_cases import KINDS, NAMES, NET, KindCase, write_photos
from whycam.errors import UserError
from whycam.model.onnx.export import quiet

Call = Callable[..., "subprocess.CompletedProcess[str]"]
CODE = """
import sys

import torch
from torch import nn


class Two(nn.Module):
    def forward(self, images, reference):
        return (images - reference).mean((2, 3))


class Body(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)


class Fails(Body):
    def forward(self, images):
        raise ValueError("boom")


class Text(Body):
    def forward(self, images):
        return "cat"


class Segments(Body):
    def forward(self, images):
        return self.conv(images)


class Fixed(Body):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4 * 62 * 62, 3)

    def forward(self, images):
        return self.head(self.conv(images).flatten(1))


class Lost(Body):
    def forward(self, images):
        return self.conv(images).mean((2, 3)) * float("nan")


class Needs(nn.Module):
    def __init__(self, classes):
        super().__init__()


number = 5


def breaks():
    raise RuntimeError("no disk")


def stops():
    sys.exit(3)


def gives_five():
    return 5


def takes_two(images, masks):
    return images
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("refused")
    (root / "net.py").write_text(NET, encoding="utf-8")
    (root / "bad.py").write_text(CODE, encoding="utf-8")
    (root / "raises.py").write_text("import nothing_of_that_name", encoding="utf-8")
    (root / "exits.py").write_text("raise SystemExit(3)", encoding="utf-8")
    (root / "syntax.py").write_text("def (:", encoding="utf-8")
    (root / "text.txt").write_text("hello", encoding="utf-8")
    (root / "four.txt").write_text("a\nb\nc\nd", encoding="utf-8")
    (root / "twice.txt").write_text("a\nb\na", encoding="utf-8")
    (root / "empty.txt").touch()
    (root / "broken.json").write_text('{"mean": [0', encoding="utf-8")
    (root / "odd.json").write_text('{"hight_px": 3}', encoding="utf-8")
    (root / "zero.json").write_text('{"std": [0, 0, 0]}', encoding="utf-8")
    write_photos(root / "photos", 1)
    return root


@pytest.fixture(scope="module")
def make(root: Path) -> Callable[[str], KindCase]:
    made = cache(lambda name: KINDS[name](root))

    def make_one(name: str) -> KindCase:
        package = {"hugging face": "transformers", "keras": "keras", "h5": "keras"}.get(name)
        if package is not None and find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
        return made(name)

    return make_one


@pytest.fixture
def check(root: Path, tmp_path: Path, call_whycam: Call, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs `explain` with these words from `root`; it must be refused in these words, and leave nothing behind."""
    monkeypatch.chdir(root)

    def run(told: str, model: object, *words: object, command: str = "explain") -> None:
        out = () if command == "inspect" else ("-o", tmp_path / "out")
        photos = () if command == "inspect" else ("photos",)
        done = call_whycam(command, model, *photos, *out, *words)
        assert done.returncode == 2, done.stdout + done.stderr
        assert done.stderr.startswith("whycam: ")
        assert "Traceback" not in done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
        assert re.search(told, done.stderr), done.stderr
        assert not (tmp_path / "out").exists()

    return run


GIVEN = ("--preprocess", "unit", "--image-size", "64")
NAMED: dict[str, tuple[str, tuple[str, ...]]] = {
    "text.txt": ("file at '.*text.txt' that is none of them; expected a model: .*an .onnx file.*docs/models.md", ()),
    "nothing.onnx": (r"no file or folder at '.*nothing.onnx' \(check the path\)", ()),
    "nothing.pt2": (r"no file or folder at '.*nothing.pt2' \(check the path\)", ()),
    "away/model.keras": (r"no file or folder at '.*away/model.keras' \(check the path\)", ()),
    "resnet5000": ("Unknown backbone 'resnet5000'.*Did you mean 'resnet50'", ()),
    "photos": ("no 'config.json' in '.*photos'; expected a model folder", ()),
    "net.py": ("the Python file 'net.py'.*net.py:make_model", ()),
    "net.py:": ("Found 'net.py:'; expected a model: .*file.py:attribute", ()),
    "none.py:make": ("no file '.*none.py'.*Check the path", ()),
    "nothing.here:make": ("fails when it is imported: ModuleNotFoundError.*Run it by itself first", ()),
    "raises.py:make": ("fails when it is imported: ModuleNotFoundError: No module named 'nothing_of_that_name'", ()),
    "exits.py:make": ("fails when it is imported: SystemExit: 3", ()),
    "syntax.py:make": ("fails when it is imported: SyntaxError", ()),
    "net.py:make_modle": ("Unknown attribute of 'net.py' 'make_modle'.*Did you mean 'make_model'", ()),
    "bad.py:number": ("gives int; expected a torch module, a function that makes one, or a function of images", GIVEN),
    "bad.py:gives_five": ("gives int; expected a torch module", GIVEN),
    "bad.py:breaks": ("fails when it is called: RuntimeError: no disk", GIVEN),
    "bad.py:stops": ("fails when it is called: SystemExit: 3", GIVEN),
    "bad.py:Needs": ("is a class that needs classes.*Write a function without arguments", GIVEN),
    "bad.py:takes_two": ("fails on an array .*missing 1 required positional argument", GIVEN),
    "bad.py:Two": ("missing 1 required positional argument: 'reference'.*Wrap it in a module whose forward", GIVEN),
    "bad.py:Fails": ("own forward raises ValueError: boom", GIVEN),
    "bad.py:Text": ("output is a str; expected a tensor", GIVEN),
    "bad.py:Segments": (r"output is \(2, 4, 62, 62\); expected logits \(N, K\)", GIVEN),
    "bad.py:Lost": ("scores of Lost for a photo are not finite.*Look for NaN", GIVEN),
    "bad.py:Fixed": ("Nobody said which size it takes, so 224 x 224 px was tried: give --image-size", GIVEN[:2]),
}


@pytest.mark.parametrize("name", NAMED)
def test_names_and_code(name: str, check: Callable[..., None]) -> None:
    told, words = NAMED[name]
    check(told, name, *words)


def test_a_size_that_the_model_refuses(check: Callable[..., None], make: Callable[[str], KindCase]) -> None:
    sized = ("--preprocess", "unit", "--image-size", "32")
    check("another size than 32 x 32 px: see --image-size", "bad.py:Fixed", *sized)
    for name in ("onnx", "pt2"):
        check("takes 64 x 64 px; found a size of 32 x 32 px. Leave the size out", make(name).words[0], *sized)


@pytest.mark.parametrize("name", ["file.py", "package", "timm", "hugging face", "onnx", "keras", "pt2", "torchscript"])
def test_class_names_that_do_not_fit(name: str, check: Callable[..., None], make: Callable[[str], KindCase]) -> None:
    words = list(make(name).words)
    if "--classes" in words:
        at = words.index("--classes")
        del words[at : at + 2]
    check("'four.txt' has 4 class names; .* has 3 outputs. Give 3 names", *words, "--classes", "four.txt")
    check("'twice.txt' names 'a' more than once", *words, "--classes", "twice.txt")


def test_files_of_class_names_that_are_none(check: Callable[..., None], make: Callable[[str], KindCase]) -> None:
    model = make("onnx").words[0]
    for file, told in {
        "empty.txt": "is empty",
        "nothing.txt": "No such file",
        model: "a text file, a class name a line, in UTF-8",
    }.items():
        check(told, model, "--preprocess", "unit", "--classes", file)


def test_nobody_says_how_photos_are_prepared(check: Callable[..., None], make: Callable[[str], KindCase]) -> None:
    told = r"does not say how its photos were prepared.*--preprocess imagenet\|.*`whycam inspect MODEL PHOTOS` tries"
    for model in ("net.py:make_model", make("onnx").words[0], make("pt2").words[0], make("torchscript").words[0]):
        check(told, model)
    check(told, make("pt2").words[0], command="inspect")


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("imagnet", "Unknown preprocessing 'imagnet'.*Did you mean 'imagenet'"),
        ("broken.json", r"'broken.json' can't be read as a preprocessing \(invalid JSON: .*expected JSON such as"),
        ("odd.json", r"\(hight_px: extra inputs are not permitted\)"),
        ("zero.json", r"\(std.0: input should be greater than or equal to 0.0001\)"),
        ("nothing.json", "No such file"),
    ],
)
def test_a_preprocessing_that_is_none(word: str, told: str, check: Callable[..., None]) -> None:
    check(told, "net.py:make_model", "--image-size", "64", "--preprocess", word)


def test_weights(check: Callable[..., None], make: Callable[[str], KindCase], root: Path) -> None:
    tensors = torch.load(make("file.py").words[2])
    torch.save({**tensors, "head.weight": torch.zeros(7, 4), "head.bias": torch.zeros(7)}, root / "seven.pth")
    torch.save({"x": torch.zeros(2)}, root / "odd.pth")
    torch.save(nn.Linear(3, 3), root / "pickled.pth")
    timm_file = make("timm").words[2]
    alone = "holds weights alone.*Give its name or code: whycam explain resnet50 PHOTOS --weights"
    for file in ("seven.pth", "pickled.pth", timm_file):
        check(alone, file)
    code = ("net.py:make_model", *GIVEN, "--weights")
    check(r"'head.weight' is \(7, 4\) in it and \(3, 4\) in the network.*another number of classes", *code, "seven.pth")
    check("it lacks 4 tensors, such as 'conv.weight'; it has 1 more, such as 'x'", *code, "odd.pth")
    check("more than tensors.*it was not opened further", *code, "pickled.pth")
    check("Found no weights file at '.*nothing.pth'", *code, "nothing.pth")
    check("do not fit ResNet: the file lacks 77 of its 77 tensors", "test_resnet", "--weights", "odd.pth")
    for file in ("odd.pth", timm_file):
        check("does not fit torchvision's 'squeezenet1_1'", "squeezenet1_1", "--weights", file)
    for name in ("onnx", "pt2", "keras", "hugging face"):
        check("says by itself what --weights would say.*Leave it out", make(name).words[0], "--weights", "seven.pth")


DAMAGED = {
    "onnx": "is no ONNX model, or one that was cut short",
    "keras": r"neither a .keras nor an .h5 file by its content",
    "h5": "neither a .keras nor an .h5 file by its content|can't be read as .h5.*Fetch the whole file again",
    "pt2": "can't be opened as a program of torch.export.*Expected a .pt2 file",
    "torchscript": "neither TorchScript nor a file of weights, or it is damaged",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_files(name: str, check: Callable[..., None], make: Callable[[str], KindCase], root: Path) -> None:
    whole = Path(make(name).words[0])
    content = whole.read_bytes()
    for what, part in {"half": content[: len(content) // 2], "empty": b"", "text": b"I am a model. " * 20}.items():
        (root / f"{what}_{whole.name}").write_bytes(part)
        check(DAMAGED[name], f"{what}_{whole.name}", "--preprocess", "unit")


def test_damaged_weights(check: Callable[..., None], make: Callable[[str], KindCase], root: Path) -> None:
    for name, model in {"file.py": ("net.py:make_model", *GIVEN), "timm": ("test_resnet",)}.items():
        whole = Path(make(name).words[2])
        (root / f"half_{whole.name}").write_bytes(whole.read_bytes()[:-200])
        check("can't be read as weights.*fetch it again", *model, "--weights", f"half_{whole.name}")


@pytest.mark.parametrize("kind", ["detect", "yolo", "segment", "add_input"])
def test_onnx_files_that_classify_no_images(kind: str, check: Callable[..., None], root: Path) -> None:
    path = getattr(onnx_files, kind)(root / f"{kind}.onnx")
    told = {"segment": "looks like a segmenter", "add_input": "2 inputs"}.get(kind, "looks like a detector")
    check(told, path, "--preprocess", "unit")


def test_programs_that_classify_no_images(check: Callable[..., None], root: Path) -> None:
    images, size = torch.zeros(2, 3, 64, 64), ("--preprocess", "unit", "--image-size", "64")
    spec: Any = {}
    exec(CODE, spec)
    nets = {"two": spec["Two"](), "segments": nn.Conv2d(3, 4, 3), "vectors": nn.Linear(3, 4)}
    given = {"two": (images, images), "segments": (images,), "vectors": (torch.zeros(2, 3),)}
    for name, net in nets.items():
        torch.export.save(torch.export.export(net, given[name]), root / f"{name}.pt2")
    check(r"it takes \(2, 3, 64, 64\), \(2, 3, 64, 64\); expected one input", "two.pt2", *size)
    check(r"it takes \(2, 3\); expected one input, images", "vectors.pt2", *size)
    check(r"output is \(2, 4, 62, 62\); expected logits", "segments.pt2", *size)
    with quiet():
        torch.jit.trace(nets["two"], (images, images)).save(str(root / "two.pt"))
        torch.jit.trace(nets["segments"], images).save(str(root / "segments.pt"))
    check(r"forward\(\).*missing.*Expected a function of normalised images", "two.pt", *size)
    check(r"output is \(\d+, 4, 62, 62\); expected logits", "segments.pt", *size)


def test_hugging_face_folders(check: Callable[..., None], make: Callable[[str], KindCase], root: Path) -> None:
    import transformers

    whole = Path(make("hugging face").words[0])

    def change(name: str, **config: Any) -> Path:
        folder = Path(shutil.copytree(whole, root / name))
        about = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        (folder / "config.json").write_text(json.dumps(about | config), encoding="utf-8")
        return folder

    (change("hf-bare") / "model.safetensors").unlink()
    check("no file named model.safetensors.*with its weights in it", "hf-bare")
    weights = change("hf-half") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    check("can't be opened as an image classifier.*with its weights in it", "hf-half")
    change("hf-text", model_type="bert", architectures=["BertModel"])
    check(r"'hf-text' \(BertModel\) can't be opened as an image classifier", "hf-text")
    change("hf-new", model_type="nonesuch")
    check("`nonesuch` but Transformers does not recognize", "hf-new")
    (change("hf-mute") / "preprocessor_config.json").unlink()
    check("does not say how its photos were prepared", "hf-mute")
    transformers.ResNetModel(transformers.AutoConfig.from_pretrained(whole)).save_pretrained(root / "hf-base")
    check("lacks 2 of the classifier's tensors.*fine-tune it and save it again", "hf-base", *GIVEN)
    (root / "saved").mkdir()
    (root / "saved/saved_model.pb").touch()
    check("SavedModel of TensorFlow.*tf2onnx", "saved")
    (root / "nothing").mkdir()
    check("Found no 'config.json'", "nothing")


@pytest.mark.skipif(find_spec("keras") is None, reason="keras is not installed")
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_keras_files_with_code_or_weights_alone(suffix: str, check: Callable[..., None], root: Path) -> None:
    from whycam.model.keras.library import import_keras

    keras: Any = import_keras()
    layers = keras.layers
    images = keras.Input((64, 64, 3))
    x = layers.Conv2D(4, 8)(layers.Lambda(lambda pixels: pixels / 255)(images))
    net = keras.Model(images, layers.Dense(3)(layers.GlobalAveragePooling2D()(x)))
    net.save(root / f"code{suffix}")
    check("has a Lambda layer, 'lambda.*never run.*Replace it by Rescaling", f"code{suffix}", *GIVEN)
    net.save_weights(root / "alone.weights.h5")
    check("holds weights of .* layers, and no model", "alone.weights.h5", *GIVEN)


def test_objects_in_python(root: Path) -> None:
    """The same in `whycam.load`, and what can be no name at all."""
    spec: Any = {}
    exec(CODE, spec)
    how: dict[str, Any] = {"preprocess": "unit", "image_size": 64}
    cases: list[tuple[object, str]] = [
        (spec["Two"](), "missing 1 required positional argument: 'reference'"),
        (spec["Text"], "Found the class Text; expected a model made of it"),
        (spec["takes_two"], "missing 1 required positional argument"),
        (lambda images: images, r"gives \(2, 3, 64, 64\) for 2 images; expected \(2, K\) scores"),
        (lambda images: np.full((len(images), 3), np.nan), "not finite"),
        (5, "Found 'int'; expected a model"),
        (None, "Found 'NoneType'; expected a model"),
    ]
    for thing, told in cases:
        with pytest.raises(UserError, match=told):
            whycam.load(thing, **how)
    with pytest.raises(UserError, match="4 class names"):
        whycam.load(lambda images: images.mean((2, 3)), class_names=["a", *NAMES], **how)
    crop = transforms.Compose([transforms.RandomCrop(64)])
    with pytest.raises(UserError, match="has a step RandomCrop"):
        whycam.load(spec["Fixed"](), preprocess=crop)
