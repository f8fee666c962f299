"""Evaluation against scipy and scikit-learn; the network is asked once about every image."""

import pytest
import torch
from conftest import randomize
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, classification_report, confusion_matrix
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from vit_tutorial import ImageSet, VisionTransformer, ViTConfig, evaluate, normalize
from vit_tutorial.evaluation import Evaluation

CLASSES = ("cat", "dog", "frog", "ship")
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def answers(n: int, seed: int = 0, present: int = len(CLASSES)) -> Evaluation:
    """Random answers, about 60% of them right, on images of the first `present` classes."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(present, (n,), generator=generator)
    guesses = torch.randint(len(CLASSES), (n,), generator=generator)
    right = torch.rand(n, generator=generator) < 0.5
    return Evaluation(torch.where(right, labels, guesses), labels, CLASSES, torch.ones(n))


def counted(correct: int, n: int) -> Evaluation:
    labels = torch.zeros(n, dtype=torch.long)
    return Evaluation((torch.arange(n) >= correct).long(), labels, CLASSES, torch.ones(n))


@pytest.fixture
def network():
    config = ViTConfig(img_size=8, patch_size=4, num_classes=4, embed_dim=16, depth=2, num_heads=2)
    return randomize(VisionTransformer(config)).float()


@pytest.fixture
def images():
    pixels = torch.randint(256, (53, 3, 8, 8), dtype=torch.uint8)
    return ImageSet(pixels, torch.randint(4, (53,)), CLASSES, "noise")


# ---- Evaluation ----


def test_the_interval_is_that_of_the_count():
    result = counted(349, 360)
    expected = binomtest(349, 360).proportion_ci(0.95, method="wilson")
    assert (result.n, result.correct) == (360, 349)
    assert result.interval == pytest.approx([100 * expected.low, 100 * expected.high], abs=1e-9)


def test_accuracy_and_confusion_agree_with_scikit_learn():
    for seed in range(3):
        result = answers(200, seed)
        expected = confusion_matrix(result.labels, result.predictions, labels=range(4))
        torch.testing.assert_close(result.confusion, torch.from_numpy(expected))
        share = accuracy_score(result.labels, result.predictions)
        assert result.accuracy == pytest.approx(100 * share)
        assert result.correct == result.confusion.trace()


def table(report: str) -> dict[str, list[float]]:
    """Read a report: name -> precision, recall, F1, number of images."""
    head, *lines = report.splitlines()
    assert head.split() == ["precision", "recall", "f1-score", "images"]
    assert len({len(line) for line in [head, *lines]}) == 1  # in columns
    return {line.split()[0]: [float(part) for part in line.split()[1:]] for line in lines}


def test_the_report_holds_what_scikit_learn_reports():
    result = answers(200)
    expected = classification_report(
        result.labels, result.predictions, target_names=CLASSES, output_dict=True
    )
    rows = table(result.report())
    assert list(rows) == [*CLASSES, "mean"]
    for name, row in rows.items():
        wanted = list(expected["macro avg" if name == "mean" else name].values())
        assert row == pytest.approx(wanted, abs=6e-4)


def test_classes_without_images_do_not_pull_down_the_means_of_the_report():
    result = answers(60, present=2)
    assert {2, 3} & set(result.predictions.tolist())
    rows = table(result.report())
    assert list(rows) == ["cat", "dog", "mean"]
    recalls = [(result.predictions[result.labels == c] == c).double().mean() for c in (0, 1)]
    assert rows["mean"][1] == pytest.approx(sum(recalls).item() / 2, abs=6e-4)
    assert rows["mean"][3] == 60


def test_a_class_that_is_never_named_has_precision_0_and_no_warning():
    labels = torch.tensor([0, 1, 1])
    for said in (0, 2):  # of a class that has images, or of one that has none
        report = Evaluation(torch.full((3,), said), labels, CLASSES, torch.ones(3)).report()
        assert table(report)["dog"] == [0, 0, 0, 2]


@pytest.mark.parametrize(
    ("predictions", "labels", "confidences"),
    [((3,), (2,), (3,)), ((3,), (3,), (4,)), ((3, 1), (3,), (3,)), ((0,), (0,), (0,))],
)
def test_an_evaluation_of_other_shapes_is_refused(predictions, labels, confidences):
    tensors = [torch.zeros(shape, dtype=torch.long) for shape in (predictions, labels)]
    with pytest.raises(ValueError, match=r"of one shape \(n,\), n > 0, got"):
        Evaluation(*tensors, CLASSES, torch.zeros(confidences))


# ---- evaluate ----


def test_every_image_is_asked_about_once_whatever_the_batch_size(network, images):
    shares = network(normalize(images.images, MEAN, STD)).detach().softmax(dim=1)
    for batch_size in (1, 7, 53, 500):
        result = evaluate(network, images, MEAN, STD, batch_size)
        torch.testing.assert_close(result.predictions, shares.argmax(dim=1))
        torch.testing.assert_close(result.confidences, shares.amax(dim=1))
        torch.testing.assert_close(result.labels, images.labels)
        assert result.classes == CLASSES
        assert result.correct == (shares.argmax(dim=1) == images.labels).sum()


def test_a_network_in_double_precision_is_asked_in_double_precision(network, images):
    network.double()
    shares = network(normalize(images.images, MEAN, STD).double()).detach().softmax(dim=1)
    result = evaluate(network, images, MEAN, STD)
    torch.testing.assert_close(result.confidences, shares.amax(dim=1))


def test_means_and_deviations_may_be_tensors(network, images):
    given = evaluate(network, images, torch.tensor(MEAN), torch.tensor(STD))
    torch.testing.assert_close(
        given.confidences, evaluate(network, images, MEAN, STD).confidences, rtol=0, atol=0
    )


class NeverWaits(TorchDispatchMode):
    """Notes what would make the processor wait for a GPU: a number read, or a copy made."""

    def __init__(self):
        super().__init__()
        self.waits = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.__name__.split(".")[0]
        moved = name == "_to_copy" and (kwargs or {}).get("device") is not None
        if moved or name in ("_local_scalar_dense", "nonzero", "lift_fresh"):
            self.waits.append(name)
        return function(*args, **(kwargs or {}))


def test_the_processor_waits_no_more_often_for_more_batches(network, images):
    """`lift_fresh` is a tensor made of Python's numbers: on a GPU, a copy that is waited for."""
    counts = []
    for batch_size in (53, 5):
        with NeverWaits() as noted:
            evaluate(network, images, MEAN, STD, batch_size)
        counts.append(len(noted.waits))
    assert counts[0] == counts[1]
    with NeverWaits() as noted:
        normalize(images.images, MEAN, STD)
    assert len(noted.waits) >= 2  # the test would see it


def test_the_mode_of_the_network_is_restored_even_after_an_error(network, images):
    seen = []

    class Spy(nn.Module):
        def __init__(self, fails):
            super().__init__()
            self.inner, self.fails = network, fails

        def forward(self, x):
            seen.append((self.training, torch.is_grad_enabled()))
            if self.fails:
                raise RuntimeError("broken")
            return self.inner(x)

    for training in (True, False):
        model = Spy(fails=False).train(training)
        evaluate(model, images, MEAN, STD)
        assert model.training is network.training is training
        broken = Spy(fails=True).train(training)
        with pytest.raises(RuntimeError, match="broken"):
            evaluate(broken, images, MEAN, STD)
        assert broken.training is training
    assert set(seen) == {(False, False)}


def test_evaluate_names_bad_input(network, images):
    with pytest.raises(ValueError, match="noise holds no images to evaluate on"):
        evaluate(network, images[:0], MEAN, STD)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        evaluate(network, images, MEAN, STD, batch_size=0)
    two = ImageSet(images.images, images.labels % 2, ("a", "b"), "noise")
    with pytest.raises(ValueError, match="tells 4 classes apart, noise has 2"):
        evaluate(network, two, MEAN, STD)
