"""One small model of each kind that comes in, and what each says of itself when it is asked without whycam."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from whycam.model.onnx.export import quiet

SIDE_PX, CELLS = 64, 8
NAMES = ("red", "green", "blue")
COLOURS = {"red": (220, 40, 40), "green": (40, 220, 40), "blue": (40, 40, 220)}
PHOTOS = 2
# As they stand in `NAMED`: "unit" and "half".
UNIT, HALF = (0.0, 1.0), (0.5, 0.5)
Ask = Callable[[np.ndarray], np.ndarray]
NET = '''"""A user's own code: it says which colour there is most of."""

import torch
from torch import nn


class Colours(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 8, stride=8)
        self.head = nn.Linear(4, 3)

    def forward(self, images):
        return self.head(self.conv(images).relu().mean((2, 3)))


class Places(Colours):
    """Each cell has weights of its own, so that no map is exact."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(4 * 64, 3)

    def forward(self, images):
        return self.head(self.conv(images).relu().flatten(1))


def make_model():
    return Colours()


def make_several():
    return nn.Sequential(Colours(), nn.Sigmoid())
'''


@dataclass(frozen=True)
class KindCase:
    """A model as a user names it.

    Attributes:
        words: MODEL and its options on the command line; of an object in Python, none.
        ask: pixels (N, 3, 64, 64) uint8 -> (N, 3) probabilities, by the model's own library alone.
        kind: as its card says it.
        names: of its classes.
        can: what it gives: exact maps, gradients, tail scores, or scores.
        is_several: several labels may be right at once.
        is_exportable: whether `whycam export` takes it.
        thing, how: of an object in Python, what `whycam.load` is given.
    """

    words: tuple[str, ...]
    ask: Ask
    kind: str
    names: tuple[str, ...] = NAMES
    can: str = "exact maps"
    is_several: bool = False
    is_exportable: bool = False
    thing: object = None
    how: dict[str, Any] | None = None


def write_photos(root: Path, photos: int = PHOTOS, seed: int = 0) -> Path:
    """CLASS/photo.png: a square of the class's colour somewhere on noise."""
    draw = np.random.default_rng(seed)
    for name, colour in COLOURS.items():
        (root / name).mkdir(parents=True)
        for index in range(photos):
            pixels = draw.integers(0, 90, (SIDE_PX, SIDE_PX, 3), dtype=np.uint8)
            y, x = draw.integers(4, 30, 2)
            pixels[y : y + 28, x : x + 28] = colour * draw.uniform(0.7, 1, (28, 28, 1))
            Image.fromarray(pixels).save(root / name / f"{index}.png")
    return root


def read_pixels(root: Path) -> np.ndarray:
    """(N, 3, 64, 64) uint8 of the photos of those folders, in their order."""
    photos = [np.asarray(Image.open(path)) for path in sorted(root.rglob("*.png"))]
    return np.stack(photos).transpose(0, 3, 1, 2)


def import_net(root: Path) -> Any:
    """The user's code of `root`, as the reference runs it."""
    spec = importlib.util.spec_from_file_location("reference_net", root / "net.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def set_weights(net: Any, scale: tuple[float, float] = UNIT) -> Any:
    """The weights that tell the colours apart, of images that were normalised so: (mean, deviation)."""
    mean, deviation = scale
    weights = torch.tensor([[2, -1, -1], [-1, 2, -1], [-1, -1, 2], [1, 1, 1.0]])
    bias = torch.full((4,), -0.1)
    net.conv.weight.data = (weights[:, :, None, None] * deviation).expand(-1, -1, 8, 8).contiguous() / 64
    net.conv.bias.data = bias + weights.sum(1) * mean
    head = torch.tensor([[1, 0, 0, 0.1], [0, 1, 0, 0.2], [0, 0, 1, 0.3]]) * 8
    if net.head.in_features > 4:
        uneven = 0.5 + torch.rand(1, 1, 64, generator=torch.Generator().manual_seed(0))
        head = (head[:, :, None] * uneven / 64).flatten(1)
    net.head.weight.data, net.head.bias.data = head, torch.tensor([0.1, -0.1, 0.05])
    return net.eval().requires_grad_(requires_grad=False)


def normalise(pixels: np.ndarray, scale: tuple[Any, Any] = UNIT) -> np.ndarray:
    mean, deviation = (np.asarray(one, dtype=np.float64).reshape(-1, 1, 1) for one in scale)
    return ((pixels / 255 - mean) / deviation).astype(np.float32)


def ask_module(net: Callable[[Tensor], Any], scale: tuple[Any, Any] = UNIT, *, ends_in: str = "logits") -> Ask:
    """The probabilities of a torch network whose output is `ends_in`."""

    def ask(pixels: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            found = net(torch.from_numpy(normalise(pixels, scale)))
        found = getattr(found, "logits", found)
        return (found.softmax(1) if ends_in == "logits" else found).numpy()

    return ask


def make_file(root: Path) -> KindCase:
    net = set_weights(import_net(root).make_model(), HALF)
    torch.save(net.state_dict(), root / "best.pth")
    (root / "classes.txt").write_text("\n".join(NAMES), encoding="utf-8")
    words = (f"{root / 'net.py'}:make_model", "--weights", str(root / "best.pth"))
    words += ("--classes", str(root / "classes.txt"), "--preprocess", "half", "--image-size", str(SIDE_PX))
    return KindCase(words, ask_module(net, HALF), "module of your code")


def make_package(root: Path) -> KindCase:
    """Of several labels: it ends in a sigmoid."""
    (root / "own").mkdir()
    (root / "own" / "__init__.py").touch()
    (root / "own" / "nets.py").write_text(NET, encoding="utf-8")
    net = import_net(root).make_several()
    set_weights(net[0])
    save_file(net.state_dict(), root / "several.safetensors")
    words = ("own.nets:make_several", "--weights", str(root / "several.safetensors"), "--preprocess", "unit")
    words += ("--classes", str(root / "classes.txt"), "--image-size", str(SIDE_PX))
    (root / "classes.txt").write_text("\n".join(NAMES), encoding="utf-8")
    return KindCase(words, ask_module(net, ends_in="probabilities"), "module of your code", is_several=True)


def make_timm(root: Path) -> KindCase:
    import timm

    torch.manual_seed(0)
    net = timm.create_model("test_resnet", num_classes=3).eval()
    net.fc.weight.data *= 20  # else one class wins everywhere
    save_file(net.state_dict(), root / "timm.safetensors")
    (root / "classes.txt").write_text("\n".join(NAMES), encoding="utf-8")
    words = ("test_resnet", "--weights", str(root / "timm.safetensors"), "--classes", str(root / "classes.txt"))
    scale = (net.pretrained_cfg["mean"], net.pretrained_cfg["std"])
    return KindCase((*words, "--image-size", str(SIDE_PX)), ask_module(net, scale), "timm network", is_exportable=True)


def make_torchvision(root: Path) -> KindCase:
    from torchvision import models

    torch.manual_seed(0)
    net = models.get_model("squeezenet1_1", num_classes=3).eval()
    torch.save(net.state_dict(), root / "torchvision.pth")
    words = ("squeezenet1_1", "--weights", str(root / "torchvision.pth"), "--image-size", str(SIDE_PX))
    names = ("class 0", "class 1", "class 2")
    scale = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    return KindCase(words, ask_module(net, scale), "torchvision network", names)


def make_hugging_face(root: Path) -> KindCase:
    import transformers

    torch.manual_seed(0)
    config = transformers.ResNetConfig(
        embedding_size=8,
        hidden_sizes=[8, 16],
        depths=[1, 1],
        layer_type="basic",
        id2label=dict(enumerate(NAMES)),
        label2id={name: k for k, name in enumerate(NAMES)},
    )
    net = transformers.ResNetForImageClassification(config).eval()
    net.classifier[1].weight.data *= 9
    net.save_pretrained(root / "hf")
    processor = transformers.ViTImageProcessor(
        size={"height": SIDE_PX, "width": SIDE_PX}, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.25]
    )
    processor.save_pretrained(root / "hf")
    scale = ((0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
    return KindCase((str(root / "hf"),), ask_module(net, scale), "Hugging Face model")


def export(net: nn.Module, path: Path) -> Path:
    """By the older exporter, which takes no seconds."""
    images = torch.zeros(2, 3, SIDE_PX, SIDE_PX)
    free = {"images": {0: "N"}, "scores": {0: "N"}}
    with quiet():
        torch.onnx.export(
            net, (images,), path, input_names=["images"], output_names=["scores"], dynamic_axes=free, dynamo=False
        )
    return path


def make_onnx(root: Path, name: str = "Colours") -> KindCase:
    net = set_weights(getattr(import_net(root), name)())
    path = export(net, root / f"{name}.onnx")
    (root / "classes.txt").write_text("\n".join(NAMES), encoding="utf-8")
    session = onnxruntime.InferenceSession(path)

    def ask(pixels: np.ndarray) -> np.ndarray:
        logits = torch.from_numpy(session.run(None, {"images": normalise(pixels)})[0])
        return logits.softmax(1).numpy()

    words = (str(path), "--preprocess", "unit", "--classes", str(root / "classes.txt"))
    return KindCase(words, ask, "ONNX file", can="exact maps" if name == "Colours" else "tail scores")


def make_keras(root: Path, suffix: str = ".keras") -> KindCase:
    """Pixels of 0 to 255 in, a softmax at the end."""
    from whycam.model.keras.library import import_keras

    keras: Any = import_keras()
    layers = keras.layers
    images = keras.Input((SIDE_PX, SIDE_PX, 3))
    x = layers.Conv2D(4, 8, strides=8, activation="relu")(layers.Rescaling(1 / 255)(images))
    x = layers.Dense(3, activation="softmax")(layers.GlobalAveragePooling2D()(x))
    net = keras.Model(images, x)
    own = set_weights(import_net(root).make_model())
    kernel, head = own.conv.weight.permute(2, 3, 1, 0).numpy(), own.head.weight.T.numpy()
    net.set_weights([kernel, own.conv.bias.numpy(), head, own.head.bias.numpy()])
    path = root / f"net{suffix}"
    net.save(path)
    (root / "classes.txt").write_text("\n".join(NAMES), encoding="utf-8")

    def ask(pixels: np.ndarray) -> np.ndarray:
        images = torch.from_numpy(pixels.transpose(0, 2, 3, 1).astype(np.float32))
        return net(images, training=False).detach().numpy()

    return KindCase((str(path), "--classes", str(root / "classes.txt")), ask, "Keras file")


def make_program(root: Path) -> KindCase:
    net = set_weights(import_net(root).make_model())
    count = torch.export.Dim("N", min=1, max=512)
    program = torch.export.export(net, (torch.zeros(2, 3, SIDE_PX, SIDE_PX),), dynamic_shapes=({0: count},))
    torch.export.save(program, root / "net.pt2")
    names = ("class 0", "class 1", "class 2")
    words = (str(root / "net.pt2"), "--preprocess", "unit")
    return KindCase(words, ask_module(program.module()), "torch.export program", names)


def make_script(root: Path) -> KindCase:
    net = set_weights(import_net(root).make_model())
    with quiet():
        script = torch.jit.script(net)
        script.save(str(root / "net.pt"))
    words = (str(root / "net.pt"), "--preprocess", "unit", "--image-size", str(SIDE_PX))
    return KindCase(words, ask_module(script), "TorchScript file", ("class 0", "class 1", "class 2"), "scores")


def make_module(root: Path) -> KindCase:
    from torchvision import transforms

    net = set_weights(import_net(root).make_model(), HALF)
    steps = [transforms.Resize(SIDE_PX), transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)]
    how = {"class_names": NAMES, "preprocess": transforms.Compose(steps)}
    return KindCase((), ask_module(net, HALF), "module", thing=net, how=how)


def make_function(root: Path) -> KindCase:
    net = set_weights(import_net(root).make_model())

    def classify(images: np.ndarray) -> np.ndarray:
        return net(torch.from_numpy(images)).softmax(1).numpy()

    how = {"class_names": NAMES, "preprocess": "unit", "image_size": SIDE_PX}
    return KindCase((), ask_module(net), "function", can="scores", thing=classify, how=how)


KINDS: dict[str, Callable[[Path], KindCase]] = {
    "file.py": make_file,
    "package": make_package,
    "timm": make_timm,
    "torchvision": make_torchvision,
    "hugging face": make_hugging_face,
    "onnx": make_onnx,
    "onnx inexact": lambda root: make_onnx(root, "Places"),
    "keras": make_keras,
    "h5": lambda root: make_keras(root, ".h5"),
    "pt2": make_program,
    "torchscript": make_script,
}
OBJECTS: dict[str, Callable[[Path], KindCase]] = {"module": make_module, "function": make_function}
