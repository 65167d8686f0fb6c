"""Files of one image: as long as their headers say, of numbers, and on one grid."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st
from predictions import PredictionFolder, softmax_case
from scipy.spatial.transform import Rotation
from test_evaluate import refused, run

from nnunet_meep.nnunet_files.headers import VoxelGrid, grid_of, read_grid

pytestmark = pytest.mark.usefixtures("unrendered")

SHAPE = (8, 9, 10)
SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "data"
ROLES = ("reference", "segmentation", "mask")


class Files:
    """A case with a mask, in some format."""

    def __init__(self, tmp_path: Path, file_ending: str, reader: str = "SimpleITKIO") -> None:
        labels = {"background": 0, "Anterior": 1, "Posterior": 2}
        self.folder = PredictionFolder(tmp_path, labels, file_ending=file_ending)
        (self.folder.pred / "plans.json").write_text(f'{{"image_reader_writer": "{reader}"}}')
        p, reference = softmax_case(np.random.default_rng(0), SHAPE)
        self.folder.add("a", p, reference)
        masks = tmp_path / "masks"
        masks.mkdir()
        (masks / f"a{file_ending}").write_bytes((self.folder.gt / f"a{file_ending}").read_bytes())
        name = f"a{file_ending}"
        self.paths = {
            "reference": self.folder.gt / name,
            "segmentation": self.folder.pred / name,
            "mask": masks / name,
        }
        self.command = (self.folder.gt, self.folder.pred, "-o", tmp_path / "out", "-np", 1)
        self.command += ("--roi", f"mask:{masks}")


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("n_cut", [1, 5, 100, 720])
@pytest.mark.parametrize("file_ending", [".nii", ".gipl"])
def test_a_file_shorter_than_its_header_says(tmp_path, capsys, file_ending, n_cut, role) -> None:
    """ITK makes the missing voxels up; 720 is all of them."""
    reader = "NibabelIO" if file_ending == ".nii" else "SimpleITKIO"
    path = Files(tmp_path, file_ending, reader).paths[role]
    whole = path.read_bytes()
    path.write_bytes(whole[:-n_cut])
    line = refused(capsys, *command(tmp_path))
    assert line == (
        f"Error: {path}: expected {len(whole)} bytes, as its header says, got "
        f"{len(whole) - n_cut}: it is cut short"
    )
    path.write_bytes(whole)
    run_command(tmp_path)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("n_cut", [1, 5, 100, 720])
@pytest.mark.parametrize("reader", ["SimpleITKIO", "NibabelIO"])
def test_a_gzip_file_whose_content_is_short(tmp_path, capsys, reader, n_cut, role) -> None:
    """Whole as a gzip file, with its right checksum."""
    path = Files(tmp_path, ".nii.gz", reader).paths[role]
    content = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(content[:-n_cut]))
    line = refused(capsys, *command(tmp_path))
    assert f"{path}: expected {len(content)} bytes, as its header says" in line


def command(tmp_path: Path) -> tuple[object, ...]:
    masks = f"mask:{tmp_path / 'masks'}"
    return (tmp_path / "gt", tmp_path / "pred", "-o", tmp_path / "out", "-np", 1, "--roi", masks)


def run_command(tmp_path: Path) -> None:
    from nnunet_meep.cli.calib_eval import main

    assert main([str(a) for a in command(tmp_path)]) == 0


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("file_ending", [".nii.gz", ".nrrd", ".mha"])
def test_what_is_no_number_is_no_label(tmp_path, capsys, file_ending, role, value) -> None:
    """ITK reads NaN in a NIfTI file as 0, which would be background."""
    path = Files(tmp_path, file_ending).paths[role]
    image = sitk.Cast(sitk.ReadImage(str(path)), sitk.sitkFloat32)
    image[1, 2, 3] = float(value)
    sitk.WriteImage(image, str(path))
    line = refused(capsys, *command(tmp_path))
    assert line == f"Error: {path}: expected labels, found 1 voxel NaN or infinite"


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    ("file_ending", "reader"),
    [(".nii.gz", "SimpleITKIO"), (".nii.gz", "NibabelIO"), (".nii", "NibabelIO")],
)
def test_complex_numbers_are_no_labels(tmp_path, capsys, file_ending, reader, role) -> None:
    path = Files(tmp_path, file_ending, reader).paths[role]
    image = sitk.ReadImage(str(path))
    as_complex = sitk.GetImageFromArray(sitk.GetArrayFromImage(image).astype(np.complex64))
    as_complex.CopyInformation(image)
    sitk.WriteImage(as_complex, str(path))
    line = refused(capsys, *command(tmp_path))
    assert line == f"Error: {path}: expected labels, found complex numbers or colours"


def test_the_spacing_beside_a_tiff_file_is_part_of_it(tmp_path, capsys) -> None:
    tifffile = pytest.importorskip("tifffile")
    folder = PredictionFolder(tmp_path, {"background": 0, "a": 1}, file_ending=".tif")
    (folder.pred / "plans.json").write_text('{"image_reader_writer": "Tiff3DIO"}')
    p, reference = softmax_case(np.random.default_rng(0), SHAPE, 2)
    np.savez_compressed(folder.pred / "c.npz", probabilities=p)
    sides = [folder.gt / "c.json", folder.pred / "c.json"]
    for path, array in zip(sides, (reference, p.argmax(0)), strict=True):
        tifffile.imwrite(path.with_suffix(".tif"), array.astype(np.uint8))
        path.write_text('{"spacing": [1, 1, 1]}')
    before = run(folder, tmp_path)["cases"][0]["classes"]["1"]
    for path in sides:
        path.write_text('{"spacing": [3, 3, 3]}')
    after = run(folder, tmp_path)["cases"][0]["classes"]["1"]
    assert after["hd"] == pytest.approx(3 * before["hd"])
    sides[0].write_text('{"spacing": [1, 1, 1]}')
    line = refused(capsys, folder.gt, folder.pred, "-o", tmp_path / "out", "-np", 1)
    assert f"{folder.pred / 'c.tif'}: expected voxels of (1.0, 1.0, 1.0) mm" in line


def moved(image: sitk.Image, how: str) -> sitk.Image:
    """The same array elsewhere."""
    if how == "spacing":
        image.SetSpacing((1.0, 1.0, 1.01))
    elif how == "origin":
        image.SetOrigin((0.0, 0.1, 0.0))
    elif how == "flipped":
        image.SetDirection((-1, 0, 0, 0, 1, 0, 0, 0, 1))
    elif how == "permuted":
        image.SetDirection((0, 1, 0, 1, 0, 0, 0, 0, 1))
    elif how == "flipped in place":  # it fills the same box
        image.SetDirection((-1, 0, 0, 0, 1, 0, 0, 0, 1))
        image.SetOrigin((image.GetSize()[0] - 1.0, 0.0, 0.0))
    return image


HOWS = {
    "spacing": ("spacing 1 x 1 x 1 mm, got 1 x 1 x 1.01 mm", 0.075),
    "origin": ("origin (0, 0, 0) mm, got (0, 0.1, 0) mm", 0.1),
    "flipped": ("direction (1 0 0 0 1 0 0 0 1), got (-1 0 0 0 1 0 0 0 1)", 19),
    "permuted": ("direction (1 0 0 0 1 0 0 0 1), got (0 1 0 1 0 0 0 0 1)", 200**0.5),
    "flipped in place": ("direction (1 0 0 0 1 0 0 0 1), got (-1 0 0 0 1 0 0 0 1)", 10),
}


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("role", ["segmentation", "mask"])
@pytest.mark.parametrize("file_ending", [".nii.gz", ".nrrd"])
def test_another_grid(tmp_path, capsys, file_ending, role, how) -> None:
    files = Files(tmp_path, file_ending)
    path = files.paths[role]
    sitk.WriteImage(moved(sitk.ReadImage(str(path)), how), str(path))
    line = refused(capsys, *command(tmp_path))
    assert f"{path}: expected the voxel grid of {files.paths['reference']}, " in line
    words, distance = HOWS[how]
    # NIfTI has the origin of a flipped image elsewhere in its own words.
    assert words in line or file_ending == ".nii.gz"
    assert "mm apart, rounding of headers would be " in line
    found = float(line.split("corners are up to ")[1].split(" mm")[0])
    assert found == pytest.approx(distance, rel=0.01)


@pytest.mark.parametrize("reader", ["SimpleITKIOWithReorient", "NibabelIOWithReorient"])
def test_readers_that_turn_images_take_them_however_they_are_stored(tmp_path, reader) -> None:
    files = Files(tmp_path, ".nii.gz", reader)
    seen = run(files.folder, tmp_path)
    for path in (files.paths["reference"], files.paths["segmentation"]):
        image = sitk.ReadImage(str(path))
        sitk.WriteImage(sitk.DICOMOrient(image, "SLP"), str(path))
        again = run(files.folder, tmp_path)
        assert again["cases"] == seen["cases"]


def test_the_same_stored_otherwise_is_another_grid_without_them(tmp_path, capsys) -> None:
    files = Files(tmp_path, ".nii.gz")
    path = files.paths["segmentation"]
    sitk.WriteImage(sitk.DICOMOrient(sitk.ReadImage(str(path)), "SLP"), str(path))
    assert "expected the voxel grid of" in refused(capsys, *command(tmp_path))


def test_axes_that_are_not_at_right_angles(tmp_path) -> None:
    """ITK refuses them; nibabel, and so nnU-Net with it, does not."""
    files = Files(tmp_path, ".nii.gz", "NibabelIO")
    affine = np.array([[1, 0.2, 0, 5], [0, 1, 0, 6], [0, 0, 2, 7], [0, 0, 0, 1.0]])
    for path in files.paths.values():
        array = np.asarray(nibabel.load(path).dataobj)
        nibabel.save(nibabel.Nifti1Image(array, affine), path)
    run_command(tmp_path)


def grid(rotation: np.ndarray, spacing_mm: np.ndarray, origin_mm: np.ndarray, shape) -> VoxelGrid:
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = rotation * spacing_mm, origin_mm
    return VoxelGrid(shape, affine)


def random_grids(n: int):
    rng = np.random.default_rng(0)
    for i in range(n):
        near_half_a_turn = np.array([0, 0, np.pi]) + rng.normal(size=3) * 1e-3
        rotation = Rotation.from_rotvec(near_half_a_turn) if i % 2 else Rotation.random(rng=rng)
        spacing, origin = rng.uniform(0.3, 5, 3), rng.uniform(-300, 300, 3)
        yield grid(rotation.as_matrix(), spacing, origin, tuple(rng.integers(1, 500, 3).tolist()))


def test_rounding_of_headers_is_no_other_grid(tmp_path) -> None:
    """Rotations of all kinds, as ITK writes them, and as a quaternion of float32 alone."""
    path = tmp_path / "a.nii"
    for wanted in random_grids(60):
        axes = wanted.affine[:3, :3]
        spacing = np.linalg.norm(axes, axis=0)
        image = sitk.Image(2, 2, 2, sitk.sitkUInt8)
        image.SetDirection((axes / spacing).ravel().tolist())
        image.SetSpacing(spacing.tolist())
        image.SetOrigin(wanted.affine[:3, 3].tolist())
        sitk.WriteImage(image, str(path))
        by_itk = read_grid(path, "SimpleITKIO")
        nifti = nibabel.Nifti1Image(np.zeros((2, 2, 2), np.uint8), None)
        nifti.header.set_qform(np.diag([-1, -1, 1, 1]) @ wanted.affine, 1)
        nifti.header.set_sform(None, 0)
        nibabel.save(nifti, path)
        by_quaternion = read_grid(path, "SimpleITKIO")
        for found in (by_itk, by_quaternion, grid_of(image)):
            as_large = VoxelGrid(wanted.shape, found.affine)
            assert wanted.distance_mm(as_large) < wanted.tolerance_mm


@given(st.integers(0, 10_000), st.floats(0, 50))
def test_a_shift_is_as_far_as_it_is(seed, shift_mm) -> None:
    rng = np.random.default_rng(seed)
    (first,) = random_grids(1)
    direction = rng.normal(size=3)
    affine = first.affine.copy()
    affine[:3, 3] += shift_mm * direction / np.linalg.norm(direction)
    assert first.distance_mm(VoxelGrid(first.shape, affine)) == pytest.approx(shift_mm, abs=1e-9)
    assert first.distance_mm(VoxelGrid((1, 2, 3), affine)) == np.inf


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"no scans in {SHARED}")
@pytest.mark.parametrize("name", ["hippocampus", "la", "wmh_flair"])
def test_real_scans_lie_where_their_references_do(name) -> None:
    labels = sorted((SHARED / name / "labelsTr").glob("*.nii.gz"))[:12]
    assert labels
    for path in labels:
        image = SHARED / name / "imagesTr" / path.name.replace(".nii.gz", "_0000.nii.gz")
        of_image, of_label = (read_grid(p, "SimpleITKIO") for p in (image, path))
        assert of_image.distance_mm(of_label) <= of_label.tolerance_mm
