"""How good a network is: accuracy with its interval, a report by class, what is taken for what."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vit_tutorial.data import ImageSet
from vit_tutorial.images import normalize
from vit_tutorial.intervals import wilson_interval
from vit_tutorial.modes import evaluating


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The predictions of a network on a test set, and the labels: int64 (n,) both.

    `confidences` (n,) are the softmax probabilities of the predicted classes.

    Raises:
        ValueError: no images, or other numbers of labels or confidences than of predictions.
    """

    predictions: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    confidences: Tensor

    def __post_init__(self) -> None:
        shapes = [tuple(t.shape) for t in (self.predictions, self.labels, self.confidences)]
        if shapes != [(self.n,)] * 3 or not self.n:
            raise ValueError(
                f"expected predictions, labels and confidences of one shape (n,), n > 0, "
                f"got {', '.join(map(str, shapes))}"
            )

    @property
    def n(self) -> int:
        """How many images there were."""
        return len(self.labels)

    @property
    def correct(self) -> int:
        """How many predictions are correct."""
        return int((self.predictions == self.labels).sum())

    @property
    def accuracy(self) -> float:
        """Percent."""
        return 100 * self.correct / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% confidence interval of the accuracy, (low, high) in percent, by Wilson's score.

        It covers the draw of the test images, not of the training: see `wilson_interval`.
        """
        return wilson_interval(self.correct, self.n)

    @property
    def confusion(self) -> Tensor:
        """How often each class (a row) was taken for each (a column): int64 (classes, classes)."""
        count = len(self.classes)
        pairs = self.labels * count + self.predictions
        return torch.bincount(pairs, minlength=count**2).view(count, count)

    def report(self) -> str:
        """Write precision, recall, F1 and number of images of each class, and their plain means.

        The numbers are scikit-learn's. Classes without an image are left out: they have no recall,
        and would pull down the means.
        """
        from sklearn.metrics import precision_recall_fscore_support

        present = self.labels.unique().tolist()
        scores = precision_recall_fscore_support(
            self.labels.numpy(), self.predictions.numpy(), labels=present, zero_division=0
        )
        rows = [(self.classes[label], *row) for label, *row in zip(present, *scores, strict=True)]
        rows.append(("mean", *(score.mean() for score in scores[:3]), self.n))
        width = max(len(name) for name, *_ in rows)
        lines = [f"{'':>{width}}  precision  recall  f1-score  images"]
        for name, precision, recall, f1, count in rows:
            lines.append(
                f"{name:>{width}}  {precision:9.3f}  {recall:6.3f}  {f1:8.3f}  {int(count):6d}"
            )
        return "\n".join(lines)


def evaluate(
    model: nn.Module,
    test: ImageSet,
    mean: Sequence[float] | Tensor,
    std: Sequence[float] | Tensor,
    batch_size: int = 500,
) -> Evaluation:
    """Run `model` on every image, in evaluation mode, on the device it is on.

    Raises:
        ValueError: no images, no batch size, or another number of classes than of logits.
    """
    if not len(test):
        raise ValueError(f"{test.name} holds no images to evaluate on")
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    first = next(model.parameters())
    # One copy to the device and one back: no wait for it between batches.
    images = test.images.to(first.device)
    mean, std = (torch.as_tensor(v, device=first.device) for v in (mean, std))
    outputs = []
    with evaluating(model):
        for batch in images.split(batch_size):
            logits: Tensor = model(normalize(batch, mean, std).to(first.dtype))
            if logits.shape[1] != len(test.classes):
                raise ValueError(
                    f"the network tells {logits.shape[1]} classes apart, "
                    f"{test.name} has {len(test.classes)}"
                )
            outputs.append(logits.softmax(dim=1).max(dim=1))
    confidences, predictions = (torch.cat(parts).cpu() for parts in zip(*outputs, strict=True))
    return Evaluation(predictions, test.labels.cpu(), test.classes, confidences)
