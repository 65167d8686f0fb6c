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
        return {
            "fiducio": self.fitted.calibrator_id,
            "configuration": self.fitted.get_config(),
            "state": {k: v.tolist() for k, v in self.fitted._get_state().items() if v is not None},
        }

    @property
    def n_parameters(self) -> int:
        """How many numbers were learnt."""
        return sum(v.numel() for v in self.fitted._get_state().values() if v is not None)


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
    calibrator = _new(method)
    with _weighted_cross_entropy(weight):
        calibrator.fit(np.maximum(p, np.float32(LOGIT_FLOOR)), y.astype(np.int64))
    return JointScaling(calibrator)


def scaling_from(method: str, parameters: dict[str, Any], n_classes: int) -> JointScaling:
    """What :meth:`JointScaling.parameters` gave.

    Args:
        method: a key of ``SCALINGS``.
        parameters: of it.
        n_classes: of the probabilities that it is for.

    Raises:
        InputError: fiducio is not installed.
        LookupError, TypeError, ValueError, RuntimeError: these are no such parameters.
    """
    calibrator = _new(method)
    state = parameters["state"]
    if parameters["fiducio"] != calibrator.calibrator_id or not isinstance(state, dict):
        raise ValueError(f"expected the state of {calibrator.calibrator_id}")
    for name, values in state.items():
        if not np.isfinite(np.asarray(values, np.float64)).all():
            raise ValueError(f"{name} holds values that are no numbers")
    calibrator._set_state(state)
    calibrator._num_classes, calibrator._fitted = n_classes, True
    # fiducio looks at shapes when it is used; each class once, because each may have a matrix.
    of_each_class = np.full((n_classes, n_classes), 0.1 / n_classes) + 0.9 * np.eye(n_classes)
    tried = calibrator.transform(of_each_class.astype(np.float32))
    if tried.shape != (n_classes, n_classes) or not bool(tried.isfinite().all()):
        raise ValueError(f"expected parameters for {n_classes} classes")
    return JointScaling(calibrator)


def check_installed(method: str) -> None:
    """Said before all the work.

    Raises:
        InputError: the method is fiducio's, which is not installed.
    """
    if method in SCALINGS:
        _new(method)


def _new(method: str) -> FiducioCalibrator:
    """fiducio's calibrator, not fitted yet."""
    try:
        import fiducio.calibrators  # noqa: F401  fills the registry
        from fiducio.registry import get_calibrator_class
    except ImportError:
        raise InputError(
            f"{method}: expected fiducio, which does it; pip install 'fiducio>=0.2,<0.3'"
        ) from None
    name, options = SCALINGS[method]
    make: Any = get_calibrator_class(name)
    return make(optimizer="lbfgs", input_type="probs", device="cpu", **options)


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
