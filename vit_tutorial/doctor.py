"""Is this installation all right? One line for each finding."""

import platform
import re
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import metadata, requires, version


def doctor() -> bool:
    """Check this installation, print a line per finding, and tell whether all is well.

    Looks at Python and the libraries, runs the bundled networks on every device that there is and
    compares with the CPU, measures the digits again and compares with the card, and says which
    data is on disk.
    """
    findings = [_check(name, check) for name, check in _CHECKS.items()]
    print("All is well." if all(findings) else "Something needs a look: see the lines with ✗.")
    return all(findings)


def _check(name: str, check: Callable[[], str]) -> bool:
    try:
        print(f"✓ {name}: {check()}")
    except Exception as error:  # whatever is broken, the other checks still run
        print(f"✗ {name}: {error}")
        return False
    return True


def _check_python() -> str:
    return f"{platform.python_version()} on {platform.system()}"


def _check_libraries() -> str:
    """Import what the lessons use: a wheel for another machine is found out only then."""
    names = ("torch", "torchvision", "matplotlib", "ipywidgets", "einops", "safetensors")
    for name in names:
        if name != "torchvision":  # takes seconds to import, and says which torch it needs
            import_module(name)
    needs = re.search(r"\btorch \(?==([\d.]+)", "; ".join(requires("torchvision") or []))
    needed, installed = needs and needs[1], version("torch").split("+")[0]
    if needed and needed != installed:
        raise ValueError(
            f"torchvision {version('torchvision')} was built for torch {needed}, but torch is "
            f"{installed}: install both together"
        )
    return ", ".join(f"{name} {version(name)}" for name in names)


def _check_devices() -> str:
    import torch

    from vit_tutorial.weights import load_checkpoint

    model, _ = load_checkpoint("cifar10")
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = model(images)
        devices = [f"cpu, {torch.get_num_threads()} threads"]
        for device in ("cuda", "mps"):
            if not getattr(torch, device).is_available():
                continue
            gap = (model.to(device)(images.to(device)).cpu() - expected).abs().max().item()
            if gap > 1e-2:
                raise ValueError(f"{device} and cpu disagree by {gap:.2g} on the same image")
            devices.append(f"{device}, which agrees with the cpu within {gap:.0e}")
    return "; ".join(devices)


def _check_checkpoints() -> str:
    from vit_tutorial import data, evaluation, weights

    model, card = weights.load_checkpoint("digits")
    result = evaluation.evaluate(model, data.digits("test"), card.mean, card.std)
    if abs(result.correct - card.evaluation["correct"]) > 1:  # another chip may round otherwise
        raise ValueError(
            f"digits has {result.correct} of {result.n} test images correct, "
            f"its card says {card.evaluation['correct']}"
        )
    again = f"{result.accuracy:.1f}% of {result.n} test images"
    return f"{', '.join(weights.bundled())}; digits measured again: {again}"


def _check_data() -> str:
    from vit_tutorial.data import cifar10

    try:
        cifar10("test", download=False)
    except (OSError, ValueError):
        return "digits and photographs; CIFAR-10 is not on disk, and the lessons do without it"
    return "digits, photographs and CIFAR-10"


def _check_address() -> str:
    urls = metadata("vit-tutorial").get_all("Project-URL") or []
    address = next((url.split(", ")[1] for url in urls if url.startswith("Repository")), "none")
    if "OWNER" in address:
        return (
            f"{address} is a placeholder; Colab links work once pyproject.toml names the real one"
        )
    return address


_CHECKS: dict[str, Callable[[], str]] = {
    "Python": _check_python,
    "libraries": _check_libraries,
    "devices": _check_devices,
    "networks": _check_checkpoints,
    "data": _check_data,
    "course address": _check_address,
}
