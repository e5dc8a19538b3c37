"""A photo explained by an exported model, with NumPy, Pillow and ONNX Runtime alone.

`whycam export MODEL -o model.onnx`, then `python explain_onnx.py model.onnx photo.jpg overlay.png`.
"""

import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

model, photo_path, overlay_path = sys.argv[1:]
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
entries = session.get_modelmeta().custom_metadata_map
card = {name: json.loads(entries[f"whycam.{name}"]) for name in ("class_names", "preprocess", "takes_uint8")}

photo = ImageOps.exif_transpose(Image.open(photo_path)).convert("RGB")
how = card["preprocess"]
resized = photo.resize((how["width_px"], how["height_px"]), Image.Resampling[how["interpolation"].upper()])
pixels = np.asarray(resized).transpose(2, 0, 1)[None]
mean, std = (np.array(how[name], dtype=np.float32).reshape(3, 1, 1) for name in ("mean", "std"))
images = pixels if card["takes_uint8"] else (pixels / np.float32(255) - mean) / std

logits, maps, *classes = session.run(None, {"images": images})
top = int(logits[0].argmax())
heat = maps[0, 0 if classes else top].clip(0)
heat = Image.fromarray(heat / (heat.max() or 1)).resize(photo.size, Image.Resampling.BILINEAR)
mask = Image.fromarray((np.asarray(heat) * 160).astype(np.uint8))
Image.composite(Image.new("RGB", photo.size, "orangered"), photo, mask).save(overlay_path)
print(f"{card['class_names'][top]} ({logits[0, top]:.2f}): {overlay_path}")
