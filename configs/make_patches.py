"""Make the input, or the network, of configs/patches.yaml.

    python configs/make_patches.py              # X, all patches: configs/data/patches.zarr
    python configs/make_patches.py --every 4    # each fourth: configs/data/patches-quarter.zarr
    python configs/make_patches.py --train      # the weights: patches-network.safetensors

X is 64 × 531,720: every 8 × 8 patch of scikit-learn's two sample photographs, in grey from 0 to 1,
one patch a column, photograph by photograph and row by row. It is written chunk by chunk as a
Zarr v3 array, and only one chunk is held in memory at a time. Takes a few seconds.

The network, 64 → 127 relu → 64, takes Gaussian noise (standard deviation 0.1) off a patch. It is
trained on patches from the left three quarters of the photographs and measured on patches from the
right quarter, which share no pixel with them. Its weights are committed; --train, which makes them
again, takes about 20 seconds.
"""

import argparse
from pathlib import Path

import numpy as np
import zarr
from safetensors.numpy import save
from sklearn.datasets import load_sample_images
from sklearn.neural_network import MLPRegressor

DATA = Path(__file__).parent / "data"
WEIGHTS = DATA / "patches-network.safetensors"
NAMES = {1: "patches.zarr", 4: "patches-quarter.zarr"}

SIDE = 8  # pixels along a patch's side
CHUNK = 16_384  # columns in a chunk: 4 MiB
GREY = (0.299, 0.587, 0.114)  # the luma of red, green and blue (ITU-R BT.601)

HIDDEN = 127  # a prime, so that no dimension is mistaken for another
SIGMA = 0.1  # the noise's standard deviation, where white is 1
TRAINING = 50_000  # patches
HELD_OUT = 20_000  # patches
PASSES = 60  # over the training patches, each with fresh noise
SEED = 0


def photographs() -> list[np.ndarray]:
    """Return china.jpg and flower.jpg in grey, each (427, 640), float32 from 0 to 1."""
    colour = load_sample_images().images
    return [(image @ np.array(GREY) / 255).astype(np.float32) for image in colour]


class Patches:
    """Every patch of some pictures of one size, numbered; made only when asked for."""

    def __init__(self, pictures: list[np.ndarray]) -> None:
        # (picture, row, column, 8, 8), a view: a patch is named by its upper left pixel
        self.windows = np.lib.stride_tricks.sliding_window_view(
            np.stack(pictures), (SIDE, SIDE), axis=(1, 2)
        )
        self.count = int(np.prod(self.windows.shape[:3]))

    def columns(self, numbers: np.ndarray) -> np.ndarray:
        """Return the patches of these numbers (B,) as columns (64, B)."""
        place = np.unravel_index(numbers, self.windows.shape[:3])
        return self.windows[place].reshape(-1, SIDE * SIDE).T


def write(path: Path, every: int) -> int:
    """Write each every-th patch to a Zarr array at path; return how many these are."""
    patches = Patches(photographs())
    numbers = np.arange(0, patches.count, every)
    array = zarr.create_array(
        store=path,
        shape=(SIDE * SIDE, numbers.size),
        chunks=(SIDE * SIDE, CHUNK),
        dtype="float32",
        dimension_names=("input", "column"),
        attributes={"long_name": "grey 8 × 8 patches of china.jpg and flower.jpg", "every": every},
        overwrite=True,
    )
    for start in range(0, numbers.size, CHUNK):
        stop = start + CHUNK
        array[:, start:stop] = patches.columns(numbers[start:stop])
    return numbers.size


def train() -> tuple[float, float]:
    """Train the network and write it; return the PSNR of held-out patches before and after."""
    rng = np.random.default_rng(SEED)
    edge = photographs()[0].shape[1] * 3 // 4
    left = Patches([picture[:, :edge] for picture in photographs()])
    right = Patches([picture[:, edge:] for picture in photographs()])
    clean = left.columns(rng.choice(left.count, TRAINING, replace=False)).T
    unseen = right.columns(rng.choice(right.count, HELD_OUT, replace=False))

    def noisy(x: np.ndarray) -> np.ndarray:
        return x + np.float32(SIGMA) * rng.standard_normal(x.shape, dtype=np.float32)

    # Pixels are centred for the training. The shift then goes into the biases:
    # W (x − ½) + b = W x + (b − ½ W 1), and c gains the ½ back.
    regressor = MLPRegressor(
        hidden_layer_sizes=(HIDDEN,), activation="relu", alpha=0, batch_size=128, random_state=SEED
    )
    for _ in range(PASSES):
        regressor.partial_fit(noisy(clean) - 0.5, clean - 0.5)
    (W, U), (b, c) = regressor.coefs_, regressor.intercepts_
    weights = {
        "fc1.weight": W.T,
        "fc1.bias": b - 0.5 * W.sum(axis=0),
        "fc2.weight": U.T,
        "fc2.bias": c + 0.5,
    }
    weights = {name: np.ascontiguousarray(w, dtype=np.float32) for name, w in weights.items()}
    WEIGHTS.write_bytes(save(weights))

    x = noisy(unseen)
    hidden = np.maximum(weights["fc1.weight"] @ x + weights["fc1.bias"][:, None], 0)
    y = weights["fc2.weight"] @ hidden + weights["fc2.bias"][:, None]
    return psnr(x, unseen), psnr(y, unseen)


def psnr(x: np.ndarray, truth: np.ndarray) -> float:
    """Return the peak signal-to-noise ratio in decibels, where white is 1."""
    return float(-10 * np.log10(np.mean((x - truth) ** 2, dtype=np.float64)))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--every", type=int, default=1, metavar="N", help="keep each N-th patch")
    parser.add_argument("--out", type=Path, metavar="PATH", help="where to write the Zarr array")
    parser.add_argument("--train", action="store_true", help="make the weights, not the patches")
    options = parser.parse_args()
    if options.train and (options.every != 1 or options.out):
        parser.error("--train makes the weights alone: leave out --every and --out")
    if options.every < 1:
        parser.error(f"--every must be 1 or more, not {options.every}")

    DATA.mkdir(exist_ok=True)
    if options.train:
        before, after = train()
        print(f"{WEIGHTS}: held-out patches {before:.2f} dB noisy, {after:.2f} dB denoised")
        return
    if options.out and options.out.exists():
        parser.error(f"{options.out} exists and is left alone: remove it, or give another --out")
    path = options.out or DATA / NAMES.get(options.every, f"patches-every-{options.every}.zarr")
    print(f"{path}: X {SIDE * SIDE} × {write(path, options.every)}")


if __name__ == "__main__":
    main()
