"""The scalings of fiducio, fitted to weighted voxels and kept as plain numbers.

fiducio (an extra: ``pip install 'nnunet-meep[fiducio]'``) and torch are loaded when one is used.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nnunet_meep.errors import InputError
from nnunet_meep.posthoc.maps import LOGIT_FLOOR

if TYPE_CHECKING:
    from fiducio import Calibrator as FiducioCalibrator

#: Of Dirichlet calibration, which is to be regularized (off-diagonal and intercept, Kull et al.
#: 2019); without, it is matrix scaling, because the logits are logarithms of probabilities here.
DIRICHLET_REGULARIZATION = 1e-3

#: Our name of a method: fiducio's name, and what it is made with.
SCALINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "vector": ("vector_scaling", {}),
    "matrix": ("matrix_scaling", {}),
    "dirichlet": (
        "dirichlet_calibration",
        {"lambda_reg": DIRICHLET_REGULARIZATION, "mu_reg": DIRICHLET_REGULARIZATION},
    ),
    "class-conditional": ("class_conditional_matrix_scaling", {}),
    "class-conditional-argmax": ("argmax_preserving_matrix_scaling", {}),
    "class-conditional-order": ("order_preserving_matrix_scaling", {}),
}


@dataclass(frozen=True)
class JointScaling:
    """A fitted calibrator of fiducio, as a map of the probabilities of all classes."""

    fitted: FiducioCalibrator

    def __call__(self, p: NDArray[np.float64]) -> NDArray[np.float64]:
        """(K, N) float64 to (K, N) float64; fiducio computes in float32."""
        floored = np.maximum(p, LOGIT_FLOOR)
        shares = np.ascontiguousarray((floored / floored.sum(axis=0)).T, np.float32)
        with _one_thread():
            return self.fitted.transform(shares).numpy().T.astype(np.float64)

    def parameters(self) -> dict[str, Any]:
        """fiducio's name of the method, its configuration and what was learnt, as JSON."""
        state = {k: v.tolist() for k, v in self.fitted._get_state().items() if v is not None}
        return {
            "fiducio": self.fitted.calibrator_id,
            "n_classes": self.fitted.num_classes,
            "configuration": self.fitted.get_config(),
            "state": state,
        }


@dataclass(frozen=True)
class BinaryScaling:
    """The same of one class against the rest, whose probabilities are p and 1 - p."""

    joint: JointScaling

    def __call__(self, p: NDArray[np.float64]) -> NDArray[np.float64]:
        return self.joint(np.stack([1 - p, p]))[1]

    def parameters(self) -> dict[str, Any]:
        return self.joint.parameters()


def fit_scaling(
    method: str, p: NDArray[np.float32], y: NDArray[np.integer], weight: NDArray[np.float64]
) -> JointScaling:
    """Fit one of ``SCALINGS`` by L-BFGS to the weighted mean of the log loss.

    Args:
        method: a key of ``SCALINGS``.
        p: probabilities that sum to 1 over the classes, (N, K).
        y: the right class, (N,), below K.
        weight: how many voxels each of these stands for, (N,).

    Raises:
        InputError: fiducio is not installed.
    """
    name, options = SCALINGS[method]
    calibrator = _calibrator_class(name)(
        optimizer="lbfgs", input_type="probs", device="cpu", **options
    )
    with _weighted_cross_entropy(weight):
        calibrator.fit(np.maximum(p, np.float32(LOGIT_FLOOR)), y.astype(np.int64))
    return JointScaling(calibrator)


def scaling_from(parameters: dict[str, Any]) -> JointScaling:
    """What :meth:`JointScaling.parameters` gave.

    Raises:
        InputError: fiducio is not installed.
        KeyError, TypeError, ValueError: these are no such parameters.
    """
    name, n_classes = parameters["fiducio"], parameters["n_classes"]
    if name not in [scaling for scaling, _ in SCALINGS.values()]:
        raise ValueError(f"fiducio's {name!r} is none of ours")
    calibrator = _calibrator_class(name)(**parameters["configuration"], device="cpu")
    calibrator._set_state(parameters["state"])
    calibrator._num_classes, calibrator._fitted = n_classes, True
    # fiducio checks shapes when it is used; a small try now is clearer than a failure later.
    calibrator.transform(np.full((1, n_classes), 1 / n_classes, np.float32))
    return JointScaling(calibrator)


def _calibrator_class(name: str) -> Any:
    try:
        from fiducio.registry import get_calibrator_class
    except ImportError:
        raise InputError(
            f"{name}: expected fiducio, which does it; pip install 'nnunet-meep[fiducio]'"
        ) from None
    import fiducio.calibrators  # noqa: F401  fills the registry

    return get_calibrator_class(name)


@contextmanager
def _one_thread() -> Iterator[None]:
    """The same result, to the last bit, wherever it is computed."""
    import torch

    n = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n)


def _weighted_cross_entropy(weight: NDArray[np.float64]) -> Any:
    """A context in which torch's cross entropy is the weighted mean over these voxels.

    fiducio knows no weights; this is torch's own way to change what a library computes.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    share = torch.from_numpy((weight / weight.sum()).astype(np.float32))

    class Weighted(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            kwargs = kwargs or {}
            if func is torch.nn.functional.cross_entropy:
                return func(*args, **{**kwargs, "reduction": "none"}) @ share
            return func(*args, **kwargs)

    return Weighted()
