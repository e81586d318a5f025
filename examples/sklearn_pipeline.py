"""A dictionary in a scikit-learn pipeline: sparse codes of digits, chosen by how well they classify.

The example learns dictionaries of scikit-learn's handwritten digits (8 x 8), searches over their size and alpha with
cross-validation, and compares a linear classifier on the codes with one on the pixels.
"""

import argparse
from pathlib import Path

from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline

from jax_mmf.estimators import OnlineDictionaryLearning


def main(quick: bool = False, figure: Path | None = None) -> dict:
    """Search, and compare codes with pixels; ``quick`` tries one candidate."""
    x, y = load_digits(return_X_y=True)
    x = (x / 16).astype("float32")
    train, test, train_labels, test_labels = train_test_split(x, y, test_size=0.5, random_state=0, stratify=y)

    classifier = LogisticRegression(max_iter=1000)
    dictionary = OnlineDictionaryLearning(center=True, max_iter=20, random_state=0)
    grid = {
        "onlinedictionarylearning__n_components": [128] if quick else [32, 128],
        "onlinedictionarylearning__alpha": [0.2] if quick else [0.1, 0.2],
    }
    search = GridSearchCV(make_pipeline(dictionary, classifier), grid, cv=2).fit(train, train_labels)

    pixels = classifier.fit(train, train_labels).score(test, test_labels)
    codes = search.score(test, test_labels)
    best = search.best_estimator_[0]
    print(f"best: {best.n_components} atoms, alpha={best.alpha}; {best.score(test):.1%} of the variance explained")
    print(f"accuracy of a linear classifier on pixels {pixels:.1%}, on codes {codes:.1%}")
    if figure is not None:
        draw(figure, best, search.cv_results_)
    return {"pixels": pixels, "codes": codes, "best": search.best_params_}


def draw(path, best, results):
    """Draw the atoms of the best candidate, and the accuracy of all."""
    from jax_mmf.plotting import new_figure, plot_patches, save_figure

    figure, _ = new_figure(0, 0, figsize=(8, 3.4))
    atoms, scores = figure.subplots(1, 2, width_ratios=(1, 1.3))
    plot_patches(best.components_, 8, ax=atoms)
    atoms.set_title(f"the {best.n_components} atoms chosen", fontsize=10)
    names = [
        " atoms, alpha = ".join(str(value) for value in reversed(candidate.values())) for candidate in results["params"]
    ]
    scores.barh(names, 100 * results["mean_test_score"], xerr=100 * results["std_test_score"], color="#0072B2")
    scores.set(xlabel="accuracy in cross-validation (%)", xlim=(80, 100))
    save_figure(figure, path)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one candidate")
    parser.add_argument("--figure", type=Path, help="picture to write")
    main(**vars(parser.parse_args()))
