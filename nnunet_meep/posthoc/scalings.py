"""The calibration methods of the package fiducio, fitted to weighted voxels and saved as numbers.

fiducio (``pip install 'fiducio>=0.2,<0.3'``) and torch are loaded only when needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nnunet_meep.errors import InputError
from nnunet_meep.posthoc.maps import LOGIT_FLOOR

if TYPE_CHECKING:
    from fiducio import Calibrator as FiducioCalibrator

#: Regularization of Dirichlet calibration, for off-diagonal weights and intercepts (Kull et al.
#: 2019). Without it, it would be the same as matrix scaling, because logits are log p here.
DIRICHLET_REGULARIZATION = 1e-3

#: {our name of a method: (fiducio's name, options for its constructor)}.
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
    """A joint map (see :mod:`.maps`) that uses a fitted calibrator of fiducio."""

    fitted: FiducioCalibrator

    def __call__(self, p: NDArray[np.float64]) -> NDArray[np.float64]:
        """Calibrate (K, N) float64 to (K, N) float64; fiducio computes in float32."""
        floored = np.maximum(p, LOGIT_FLOOR)
        shares = np.ascontiguousarray((floored / floored.sum(axis=0)).T, np.float32)
        with _one_thread():
            calibrated: NDArray[np.float64] = self.fitted.transform(shares).T.double().numpy()
        return calibrated

    def parameters(self) -> dict[str, Any]:
        """fiducio's name of the method, its configuration and fitted parameters, as JSON."""
        return {
            "fiducio": self.fitted.calibrator_id,
            "configuration": self.fitted.get_config(),
            "state": {k: v.tolist() for k, v in self.fitted._get_state().items() if v is not None},
        }

    @property
    def n_parameters(self) -> int:
        """Number of fitted parameters."""
        return sum(v.numel() for v in self.fitted._get_state().values() if v is not None)


@dataclass(frozen=True)
class BinaryScaling:
    """A binary map: a :class:`JointScaling` of two classes with the probabilities 1 - p and p."""

    joint: JointScaling

    def __call__(self, p: NDArray[np.float64]) -> NDArray[np.float64]:
        positive: NDArray[np.float64] = self.joint(np.stack([1 - p, p]))[1]
        return positive

    def parameters(self) -> dict[str, Any]:
        return self.joint.parameters()


def fit_scaling(
    method: str, p: NDArray[np.float32], y: NDArray[np.integer], weight: NDArray[np.float64]
) -> JointScaling:
    """Fit one of ``SCALINGS`` by minimising the weighted mean of the log loss with L-BFGS.

    Args:
        method: a key of ``SCALINGS``.
        p: probabilities that sum to 1 over the classes, (N, K).
        y: index of the correct class, (N,).
        weight: how many voxels each entry represents, (N,).

    Raises:
        InputError: fiducio is not installed.
    """
    calibrator = _new(method)
    with _weighted_cross_entropy(weight):
        calibrator.fit(np.maximum(p, np.float32(LOGIT_FLOOR)), y.astype(np.int64))
    return JointScaling(calibrator)


def scaling_from(method: str, parameters: dict[str, Any], n_classes: int) -> JointScaling:
    """Restore a map from the result of :meth:`JointScaling.parameters`.

    Args:
        method: a key of ``SCALINGS``.
        parameters: the saved parameters.
        n_classes: number of classes, K.

    Raises:
        InputError: fiducio is not installed.
        LookupError, TypeError, ValueError, RuntimeError: the parameters are invalid.
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
    # fiducio checks shapes only when it is called. Try one voxel predicted as each class, because
    # each class may have a matrix of its own.
    of_each_class = np.full((n_classes, n_classes), 0.1 / n_classes) + 0.9 * np.eye(n_classes)
    tried = calibrator.transform(of_each_class.astype(np.float32))
    if tried.shape != (n_classes, n_classes) or not bool(tried.isfinite().all()):
        raise ValueError(f"expected parameters for {n_classes} classes")
    return JointScaling(calibrator)


def check_installed(method: str) -> None:
    """Check that fiducio is installed if the method needs it; to be called before any work.

    Raises:
        InputError: fiducio is needed, but not installed.
    """
    if method in SCALINGS:
        _new(method)


def _new(method: str) -> FiducioCalibrator:
    """fiducio's calibrator for a method, not fitted yet."""
    try:
        import fiducio.calibrators  # noqa: F401  fills the registry
        from fiducio.registry import get_calibrator_class
    except ImportError:
        raise InputError(
            f"{method}: expected fiducio, which does it; pip install 'fiducio>=0.2,<0.3'"
        ) from None
    name, options = SCALINGS[method]
    make: Callable[..., FiducioCalibrator] = get_calibrator_class(name)
    return make(optimizer="lbfgs", input_type="probs", device="cpu", **options)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Limit torch to one thread, so that results do not depend on the number of cores."""
    import torch

    n = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(n)


def _weighted_cross_entropy(weight: NDArray[np.float64]) -> Any:
    """A context manager that makes torch's cross-entropy the weighted mean over these voxels.

    Needed because fiducio has no weights; ``TorchFunctionMode`` is torch's own mechanism to replace
    a function inside a library.
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
