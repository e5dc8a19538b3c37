"""The original experiment in Keras 3: VGG16 without its top and last pooling, a convolution, GAP and a softmax.

`python keras_flowers.py --weights vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5` trains the head on a frozen VGG16;
without the file the whole network learns from random weights: minutes on two cores, and a third to half of the unseen
photos right (a fifth is chance). Photos are whycam's generated garden. It ends with the maps: the formula of the
experiment, by hand, beside whycam's.
"""

import argparse
import os

os.environ["KERAS_BACKEND"] = "torch"

import keras
import numpy as np
import torch
from keras import layers

import whycam
from whycam.data.garden import FLOWERS, make_scene
from whycam.model.keras.open import open_keras


def draw_photos(per_class: int, side_px: int, first_seed: int) -> tuple[np.ndarray, np.ndarray]:
    """(N, H, W, 3) photos of 0 to 255, and (N,) their classes."""
    seeds = range(first_seed, first_seed + 2 * per_class, 2)  # even ones to learn from, odd ones to test by
    scenes = [make_scene(flower, seed, side_px) for seed in seeds for flower in FLOWERS]
    labels = [FLOWERS.index(scene.flower) for scene in scenes]
    return np.stack([np.asarray(scene.image, "float32") for scene in scenes]), np.array(labels)


def build(side_px: int, weights: str | None) -> keras.Model:
    """The network; what VGG16 wants done to a photo is in it, so that the file is all that is needed."""
    photos = keras.Input((side_px, side_px, 3), name="photos")
    inputs = keras.applications.vgg16.preprocess_input(photos)
    vgg = keras.applications.VGG16(include_top=False, weights=weights, input_tensor=inputs)
    if weights is None:
        # Keras draws kernels for which each ReLU halves the signal's variance, and the photos' is far from 1.
        for kernel in (weight for weight in vgg.weights if weight.name == "kernel"):
            kernel.assign(kernel * 2**0.5)
        vgg.get_layer("block1_conv1").kernel.assign(vgg.get_layer("block1_conv1").kernel / 64)
    vgg.trainable = weights is None
    x = vgg.get_layer("block5_conv3").output
    x = layers.Conv2D(1024, 3, padding="same", activation="relu", name="cam_conv")(x)
    x = layers.GlobalAveragePooling2D(name="gap")(x)
    return keras.Model(photos, layers.Dense(len(FLOWERS), activation="softmax", name="flower")(x), name="keras_flowers")


def train(options: argparse.Namespace) -> tuple[keras.Model, np.ndarray]:
    """The trained network, and photos that it has not seen."""
    keras.utils.set_random_seed(0)
    photos, labels = draw_photos(options.photos, options.side, 0)
    unseen, truth = draw_photos(max(1, options.photos // 4), options.side, 1)
    model = build(options.side, options.weights)
    rate = 1e-3 if options.weights else 2e-4
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(photos, labels, batch_size=16, epochs=options.epochs, verbose=2, validation_data=(unseen, truth))
    return model, unseen


def map_by_hand(model: keras.Model, photos: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """(N, h, w): the class's weights times the convolution's output, as the experiment had it."""
    maps = keras.Model(model.input, model.get_layer("cam_conv").output).predict(photos, verbose=0)
    weights = model.get_layer("flower").get_weights()[0]
    return np.einsum("nhwc,cn->nhw", maps, weights[:, classes])


def main() -> None:
    """Train, save, and compare the maps."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", help="Keras's VGG16 weights without the top; random if left out")
    parser.add_argument("--side", type=int, default=64, help="pixels a side (original: 160)")
    parser.add_argument("--photos", type=int, default=40, help="of each flower")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("-o", "--out", default="flowers.keras")
    options = parser.parse_args()
    model, unseen = train(options)
    keras.Model(model.input, model.output, name=model.name).save(options.out)  # without Adam's memory, twice the size

    photos = unseen[: 2 * len(FLOWERS)]
    found = open_keras(options.out)
    why = whycam.explain(found.network, torch.from_numpy(photos.transpose(0, 3, 1, 2).copy()), class_names=FLOWERS)
    by_hand = map_by_hand(model, photos, why.target.numpy())
    gap = np.abs(why.maps.numpy() - by_hand).max() / np.abs(by_hand).max()
    print(f"{options.out}: {found.preprocess_from}")
    print(
        f"maps of {len(photos)} photos, {by_hand.shape[1]} x {by_hand.shape[2]} cells, by hand and by whycam: {gap:.1e}"
    )


if __name__ == "__main__":
    main()
