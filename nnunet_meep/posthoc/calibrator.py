"""A fitted calibrator, and its file ``calibrator.json``.

The file (format 3) is JSON with the keys

- ``format``, ``version``: version of the file format, and of this package;
- ``method``: as ``meep-calib-fit`` names it;
- ``labels``, ``regions_class_order``: as in ``dataset.json``; the calibrator can be applied only to
  predictions with the same labels;
- ``logit_floor``: smaller probabilities are raised to this value before a logarithm is taken;
- ``classes``: if each class or region has its own map, its ``parameters`` (null, with a ``reason``,
  if there was nothing to learn); otherwise
- ``joint``: the ``parameters`` of one map for all classes together; for ``threshold`` and
  ``volume`` what :mod:`nnunet_meep.nnunet_files.derived` holds;
- ``after``: if it was fitted to probabilities of another calibrator, the content of its file;
- ``network``: the network whose predictions it is for
  (see :mod:`nnunet_meep.nnunet_files.networks`);
- ``fitted_on``: the folders, the cases with the identities of their files, the ROI, whether it was
  fitted to single folds for their average (``cross_fitted``), the numbers of voxels and the log
  loss.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_meep import __version__
from nnunet_meep.atomic import replacing_file
from nnunet_meep.errors import InputError
from nnunet_meep.evaluation.counting.surface import bounding_box
from nnunet_meep.json_file import read_json
from nnunet_meep.nnunet_files.calibrated import fitted_cases
from nnunet_meep.nnunet_files.derived import DERIVED, Thresholds, VolumeIntervals, derived_of
from nnunet_meep.nnunet_files.labels import Labels, read_labels
from nnunet_meep.nnunet_files.networks import Network
from nnunet_meep.posthoc.blocks import blocks_of
from nnunet_meep.posthoc.maps import LOGIT_FLOOR, BinaryMap, JointMap
from nnunet_meep.posthoc.padding import keep_apart, not_padding
from nnunet_meep.posthoc.parsed_maps import binary_map, joint_map
from nnunet_meep.posthoc.scalings import SCALINGS
from nnunet_meep.posthoc.segmentation import segmentation, thresholded

FORMAT = 3
#: What calibrates probabilities; ``DERIVED`` leaves them as they are.
METHODS = ("platt", "isotonic", "temperature", *SCALINGS)


@dataclass(frozen=True)
class Calibrator:
    """A fitted calibrator; call it with the probabilities of a case.

    Attributes:
        method: one of ``METHODS`` or ``DERIVED``.
        labels: the classes it was fitted for.
        dataset_labels: ``labels`` and ``regions_class_order`` of ``dataset.json``.
        binary: {key of a class or region: its map against the rest}; with two classes only that of
            the foreground. None if there was nothing to learn; the probabilities then stay as they
            are. Empty if there is a joint map, or nothing is calibrated.
        joint: the map for all classes together, or None.
        derived: for ``DERIVED``, what follows from the probabilities.
        after: the calibrator that comes before this one; it is applied with it.
        reasons: {key: why there was nothing to learn}.
        network: the network whose predictions it was fitted to.
        fitted_on: the data it was fitted to, as JSON; see the module's docstring.

    Example:
        >>> import nnunet_meep as nm
        >>> import numpy as np
        >>> calibrator = nm.read_calibrator("calibrator.json")  # of meep-calib-fit
        >>> calibrator(np.full((3, 4), 1 / 3, np.float32)).sum(axis=0)
        array([1., 1., 1., 1.], dtype=float32)
    """

    method: str
    labels: Labels
    dataset_labels: Mapping[str, Any]
    binary: Mapping[str, BinaryMap | None] = field(default_factory=dict)
    joint: JointMap | None = None
    derived: Thresholds | VolumeIntervals | None = None
    after: Calibrator | None = None
    reasons: Mapping[str, str] = field(default_factory=dict)
    network: Network = field(default_factory=Network)
    fitted_on: Mapping[str, Any] = field(default_factory=dict)

    def __call__(
        self, probabilities: NDArray[np.floating], out: NDArray[np.float32] | None = None
    ) -> NDArray[np.float32]:
        """Calibrate a case.

        nnU-Net's padding outside the crop that it predicted is not changed, and none is added.

        Args:
            probabilities: as in ``CASE.npz``, (C, *shape), in [0, 1]; unless there are regions,
                they must sum to 1 over the classes.
            out: array for the result; may be ``probabilities`` itself.

        Returns:
            Calibrated probabilities, (C, *shape) float32; unless there are regions, they sum to 1.
        """
        expected = (self.labels.n_channels, *probabilities.shape[1:])
        if probabilities.ndim < 2 or probabilities.shape != expected:
            raise ValueError(
                f"probabilities: expected the shape {expected}, got {probabilities.shape}"
            )
        if out is None:
            out = np.empty(probabilities.shape, np.float32)
        if out is not probabilities:
            out[...] = probabilities
        if self.after is not None:
            self.after(out, out=out)
        if self.derived is not None:
            return out
        has_regions = self.labels.is_region_based
        crop = bounding_box(not_padding(out, has_regions))
        if crop is None:
            return out
        of_all_channels = (slice(None),)
        inside = out[of_all_channels + crop]
        for block in blocks_of(inside.shape[1:]):
            values = inside[of_all_channels + block]
            p = np.clip(values.reshape(len(values), -1), 0, 1, dtype=np.float64)
            values[...] = self.of_voxels(p).reshape(values.shape)
        keep_apart(inside, has_regions)
        return out

    @property
    def steps(self) -> tuple[Calibrator, ...]:
        """Those that come before this one, in their order, and this one."""
        return (*(() if self.after is None else self.after.steps), self)

    @property
    def thresholds(self) -> Thresholds | None:
        """The thresholds that segmentations follow; None: nnU-Net's rule."""
        return next((s.derived for s in self.steps if isinstance(s.derived, Thresholds)), None)

    @property
    def intervals(self) -> VolumeIntervals | None:
        """The intervals of the volumes; None if there are none."""
        found = (s.derived for s in self.steps if isinstance(s.derived, VolumeIntervals))
        return next(found, None)

    def segmentation(self, probabilities: NDArray[np.float32]) -> NDArray[np.unsignedinteger]:
        """The segmentation (*shape) of calibrated probabilities (C, *shape).

        By the thresholds, if there are any (see :mod:`.segmentation`), or else by nnU-Net's rule.
        """
        if (thresholds := self.thresholds) is None:
            return segmentation(probabilities, self.labels)
        return thresholded(probabilities, self.labels, thresholds)

    def of_voxels(self, p: NDArray[np.float64]) -> NDArray[np.float64]:
        """Calibrate voxels, (C, N) float64 in [0, 1], all of which are taken as not padding."""
        if self.joint is not None:
            return self.joint(p)
        if not self.labels.is_region_based and len(p) == 2:
            foreground = self._mapped(self.labels.keys[0], p[1])
            return np.stack([1 - foreground, foreground])
        keys = binary_keys(self.labels)
        result = np.stack([self._mapped(key, row) for key, row in zip(keys, p, strict=True)])
        if not self.labels.is_region_based:
            sums = result.sum(axis=0)
            np.divide(result, sums, out=result, where=sums > 0)
            result = np.where(sums > 0, result, p)  # all calibrated to 0: keep what they were
        return result

    def _mapped(self, key: str, p: NDArray[np.float64]) -> NDArray[np.float64]:
        function = self.binary[key]
        return p if function is None else function(p)

    def check_labels(self, labels: Labels, where: Path | str) -> None:
        """Check that the calibrator was fitted for these labels (the ignore label may differ).

        Raises:
            InputError: it was not; the message names ``where``.
        """
        mine, theirs = _describe(self.labels), _describe(labels)
        if mine != theirs:
            raise InputError(
                f"{where}: expected the labels that the calibrator was fitted for, {mine}, "
                f"got {theirs}"
            )

    def check_network(
        self, network: Network, where: Path, *, any_network: bool = False, advice: str | None = None
    ) -> list[str]:
        """Check that the calibrator was fitted to predictions of this network.

        Args:
            network: the network that made the predictions; unknown attributes are not checked.
            where: named in errors.
            any_network: accept another network on the same data set.
            advice: what to do if it differs, for the error; None: for commands that apply.

        Returns:
            The differences between the two networks, one phrase each.

        Raises:
            InputError: the network is on another data set, or, without ``any_network``, differs.
        """
        if self.network.other_dataset(network):
            raise InputError(
                f"{where}: expected the data set that the calibrator was fitted on, "
                f"{self.network.dataset}, got {network.dataset}"
            )
        differences = network.differences(self.network)
        if differences and not any_network:
            is_average = network.averaged and not self.network.averaged
            how = " (meep-calib-fit --folds)" if is_average else ""
            advice = advice or (
                f"fit a calibrator to this one{how}, or apply it all the same with --any-network"
            )
            raise InputError(
                f"{where}: expected predictions of the network that the calibrator was fitted to, "
                f"got those of another one: {'; '.join(differences)}; {advice}"
            )
        return differences

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write ``calibrator.json``.

        Raises:
            OSError: the file cannot be written.
        """
        text = json.dumps(self.to_dict(), indent=2)
        # One line per list of numbers: with a line per number, isotonic steps would hide the rest.
        text = re.sub(r'\[([^\[\]{}"]*)\]', lambda m: f"[{' '.join(m[1].split())}]", text)
        with replacing_file(Path(path)) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")

    def to_dict(self) -> dict[str, Any]:
        """The content of ``calibrator.json``."""
        content: dict[str, Any] = {
            "format": FORMAT,
            "version": __version__,
            "method": self.method,
            **self.dataset_labels,
            "logit_floor": LOGIT_FLOOR,
        }
        if self.joint is not None:
            content["joint"] = {"parameters": self.joint.parameters()}
        elif self.derived is not None:
            content |= self.derived.to_dict()
        else:
            content["classes"] = {
                key: {"parameters": None if function is None else function.parameters()}
                for key, function in self.binary.items()
            }
        for key, reason in self.reasons.items():
            content["classes"][key]["reason"] = reason
        if self.after is not None:
            content["after"] = self.after.to_dict()
        content["network"] = self.network.to_dict()
        content["fitted_on"] = dict(self.fitted_on)
        return content


def binary_keys(labels: Labels) -> tuple[str, ...]:
    """Keys of what is calibrated against the rest: regions, the only foreground, or all labels."""
    if labels.is_region_based or labels.n_channels == 2:
        return labels.keys
    return tuple(str(v) for v in labels.values)


def binary_channel(labels: Labels, key: str) -> int:
    """The channel of the probabilities for a key of :func:`binary_keys`."""
    index = binary_keys(labels).index(key)
    return 1 if not labels.is_region_based and labels.n_channels == 2 else index


def label_entries(dataset_json: Mapping[str, Any]) -> dict[str, Any]:
    """The entries of ``dataset.json`` that define the labels."""
    return {k: v for k, v in dataset_json.items() if k in ("labels", "regions_class_order")}


def is_joint(method: str, labels: Labels) -> bool:
    """Whether the method fits one map for all classes together, for these labels.

    Never for two classes or for regions, which are each calibrated against the rest.
    """
    several = not labels.is_region_based and labels.n_channels > 2
    return several and method not in ("platt", "isotonic", *DERIVED)


def read_calibrator(path: str | os.PathLike[str]) -> Calibrator:
    """Read ``calibrator.json``.

    Raises:
        InputError: the file is not a calibrator, or needs a package that is not installed.

    Example:
        >>> import nnunet_meep as nm
        >>> calibrator = nm.read_calibrator("calibrator.json")
        >>> calibrator.method
        'temperature'
    """
    path = Path(path)
    try:
        content = read_json(path)
    except OSError as error:
        raise InputError(
            f"{path}: expected a calibrator of meep-calib-fit: {error.strerror}"
        ) from None
    except ValueError as error:
        raise InputError(f"{path}: expected a calibrator in JSON, got {error}") from None
    return _calibrator(content, path)


def _calibrator(content: Any, path: Path) -> Calibrator:
    """The calibrator in the parsed content of a file, which errors name."""
    if not isinstance(content, dict) or "format" not in content or "method" not in content:
        raise InputError(f"{path}: expected a calibrator of meep-calib-fit, got another file")
    if content["format"] != FORMAT:
        raise InputError(
            f"{path}: expected a calibrator in format {FORMAT}, got format {content['format']!r}; "
            f"fit it again with this version"
        )
    method = content["method"]
    if method not in (*METHODS, *DERIVED):
        raise InputError(f"{path}: expected a method of meep-calib-fit, got {method!r}")
    if content.get("logit_floor") != LOGIT_FLOOR:
        raise InputError(
            f"{path}: expected the logit floor {LOGIT_FLOOR}, got {content.get('logit_floor')}"
        )
    labels = read_labels(content, path)
    after = _calibrator(content["after"], path) if "after" in content else None
    if after is not None:
        after.check_labels(labels, path)
    try:
        return _parse(method, labels, content, after)
    except (
        LookupError,
        TypeError,
        ValueError,
        ArithmeticError,
        AssertionError,
        AttributeError,
        RuntimeError,
    ) as error:
        raise InputError(
            f"{path}: expected the parameters of {method} for {_describe(labels)}; fit it again: "
            f"{type(error).__name__} {error}".splitlines()[0]
        ) from None


def _parse(
    method: str, labels: Labels, content: dict[str, Any], after: Calibrator | None
) -> Calibrator:
    joint: JointMap | None = None
    binary: dict[str, BinaryMap | None] = {}
    derived = derived_of(content, labels.keys)
    if is_joint(method, labels):
        joint = joint_map(method, content["joint"]["parameters"], labels.n_channels)
    elif derived is None:
        for key in binary_keys(labels):
            parameters = content["classes"][key]["parameters"]
            binary[key] = None if parameters is None else binary_map(method, parameters)
    classes = content["classes"] if joint is None else {}
    fitted_cases(content)  # raises if they are missing; the evaluation needs them later
    return Calibrator(
        method,
        labels,
        label_entries(content),
        binary,
        joint,
        derived,
        after,
        {key: str(entry["reason"]) for key, entry in classes.items() if "reason" in entry},
        Network.from_dict(content["network"]),
        content["fitted_on"],
    )


def _describe(labels: Labels) -> str:
    """Labels as text, without the ignore label, which is never predicted."""
    named = ", ".join(f"{k} {n}" for k, n in zip(labels.keys, labels.names, strict=True))
    if not labels.is_region_based:
        return named
    return f"{named} (regions_class_order {list(labels.regions_class_order)})"
