"""Make the input and the network of configs/digits.yaml.

    python configs/make_digits.py

writes configs/data/digits.npy (X, 64 × 1797: one handwritten digit a column, pixels 0 to 1) and
configs/data/digits-network.npz (W1, b1, W2, b2: 64 → 61 tanh → 10). Takes a few seconds.

The network is scikit-learn's MLPClassifier without its last step: there softmax makes
probabilities of the ten outputs, here the network ends at the outputs themselves, the logits.
Softmax keeps their order, so the digit that is recognised is the same.
"""

import argparse
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

DATA = Path(__file__).parent / "data"
HIDDEN = 61  # a prime, so that no dimension is mistaken for another
SEED = 0

Weights = dict[str, np.ndarray]


def load() -> tuple[np.ndarray, np.ndarray]:
    """Return X (64, 1797), float32 from 0 to 1, and the digit in each column (1797,)."""
    images, digits = load_digits(return_X_y=True)
    return np.ascontiguousarray(images.T / 16, dtype=np.float32), digits


def train(X: np.ndarray, digits: np.ndarray) -> Weights:
    """Train on the columns of X; return the weights, each layer's matrix output × input."""
    classifier = MLPClassifier(
        hidden_layer_sizes=(HIDDEN,),
        activation="tanh",
        alpha=0.1,
        learning_rate_init=0.003,
        max_iter=500,
        random_state=SEED,
    ).fit(X.T, digits)
    (W, U), (b, c) = classifier.coefs_, classifier.intercepts_
    weights = {"W1": W.T, "b1": b, "W2": U.T, "b2": c}
    return {name: np.ascontiguousarray(w, dtype=np.float32) for name, w in weights.items()}


def accuracy(weights: Weights, X: np.ndarray, digits: np.ndarray) -> float:
    """Return the fraction of columns whose largest logit is that of the right digit."""
    hidden = np.tanh(weights["W1"] @ X + weights["b1"][:, None])
    logits = weights["W2"] @ hidden + weights["b2"][:, None]
    return float(np.mean(logits.argmax(axis=0) == digits))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.parse_args()

    X, digits = load()
    training, held_out = train_test_split(
        np.arange(digits.size), test_size=0.25, stratify=digits, random_state=SEED
    )
    weights = train(X[:, training], digits[training])

    DATA.mkdir(exist_ok=True)
    np.save(DATA / "digits.npy", X)
    np.savez(DATA / "digits-network.npz", **weights)
    score = accuracy(weights, X[:, held_out], digits[held_out])
    print(f"{DATA / 'digits.npy'}: X {X.shape[0]} × {X.shape[1]}")
    print(f"{DATA / 'digits-network.npz'}: held-out accuracy {score:.3f} of {held_out.size} digits")


if __name__ == "__main__":
    main()
