"""Sets of pictures from .npz files, folders and datasets, and everything that can be wrong with them."""

import re
import zipfile

import numpy as np
import pytest

pytest.importorskip("torch", reason='torch is not installed: pip install "splat2d[diffusion]"')
pytest.importorskip("safetensors", reason='safetensors is not installed: pip install "splat2d[diffusion]"')
import torch
from PIL import Image

from splat2d import InputError, save_image
from splat2d.diffusion.pictures import load_pictures, pictures_of

GREY = np.random.default_rng(0).integers(0, 256, (20, 6, 4), np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (20, 6, 5, 3), np.uint8)
LABELS = np.arange(20) % 3


def npz(tmp_path, **arrays):
    path = tmp_path / "set.npz"
    np.savez(path, **arrays)
    return path


def test_npz_with_parts(tmp_path):
    path = npz(tmp_path, x_train=GREY[:15], y_train=LABELS[:15], x_test=GREY[15:], y_test=LABELS[15:].astype(np.uint8))
    found = load_pictures(path)
    np.testing.assert_array_equal(found.images, GREY[..., None])
    np.testing.assert_array_equal(found.labels, LABELS)
    assert found.test.tolist() == [False] * 15 + [True] * 5
    assert found.names == ("0", "1", "2") and found.size == (6, 4, 1) and len(found) == 20
    assert found.labels.dtype == np.int64


def test_npz_without_parts_holds_out_a_tenth(tmp_path):
    path = npz(tmp_path, x=COLOUR, y=LABELS, names=["a", "b", "c"])
    found = load_pictures(path)
    np.testing.assert_array_equal(found.images, COLOUR)
    assert found.test.sum() == 2 and found.names == ("a", "b", "c")
    np.testing.assert_array_equal(load_pictures(path).test, found.test)


def test_npz_without_labels_has_no_classes(tmp_path):
    found = load_pictures(npz(tmp_path, x=GREY, names=["a"]))
    assert found.names == () and not found.labels.any()
    found = load_pictures(npz(tmp_path, x_train=GREY[:9], x_test=GREY[9:]))
    assert found.names == () and found.test.sum() == 11


def test_alpha_is_multiplied_in(tmp_path):
    images = np.zeros((2, 3, 3, 4), np.uint8)
    images[..., 0], images[..., 3] = 200, 128
    found = load_pictures(npz(tmp_path, x=images))
    assert (found.images == [100, 0, 0, 128]).all()
    assert (pictures_of([(images[0], 0), (images[1], 0)]).images == [100, 0, 0, 128]).all()


def test_limit_takes_of_both_parts_and_all_classes(tmp_path):
    labels = np.repeat(np.arange(2), 10)
    path = npz(tmp_path, x_train=GREY, y_train=labels, x_test=GREY[:4], y_test=labels[:4])
    found = load_pictures(path, limit=8)
    assert (~found.test).sum() == 8 and found.test.sum() == 4
    assert set(found.labels[~found.test]) == {0, 1}
    with pytest.raises(InputError, match="limit: must be at least 1"):
        load_pictures(path, limit=0)


def write_folder(folder, *places):
    for index, place in enumerate(places):
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        save_image(path, COLOUR[index])
    return folder


def test_folder_of_classes(tmp_path):
    folder = write_folder(tmp_path, "dog/1.png", "cat/2.png", "cat/deep/3.PNG", "dog/4.png")
    (folder / "notes.txt").write_text("no picture")
    found = load_pictures(folder)
    assert found.names == ("cat", "dog")
    np.testing.assert_array_equal(found.images, COLOUR[[1, 2, 0, 3]])
    assert found.labels.tolist() == [0, 0, 1, 1] and found.test.sum() == 1


def test_folder_with_parts(tmp_path):
    found = load_pictures(write_folder(tmp_path, "train/a/1.png", "train/b/2.png", "test/b/3.png"))
    assert found.names == ("a", "b")
    assert found.labels.tolist() == [0, 1, 1] and found.test.tolist() == [False, False, True]


def test_plain_folder_has_no_classes(tmp_path):
    found = load_pictures(write_folder(tmp_path, "1.png", "2.png", "3.png"))
    assert found.names == () and not found.labels.any() and found.test.sum() == 1


def test_dataset_of_pictures_tensors_or_arrays():
    class Dataset(list):
        classes = ("cat", "dog")

    as_tensor = torch.from_numpy(COLOUR[1]).permute(2, 0, 1) / 255
    found = pictures_of(Dataset([(Image.fromarray(COLOUR[0]), 0), (as_tensor, torch.tensor(1))]), [(COLOUR[2], 1)])
    np.testing.assert_array_equal(found.images, COLOUR[:3])
    assert found.names == ("cat", "dog") and found.labels.tolist() == [0, 1, 1]
    assert found.test.tolist() == [False, False, True]
    grey = pictures_of([(GREY[0], 0), (torch.from_numpy(GREY[1])[None] / 255, 1)])
    np.testing.assert_array_equal(grey.images, GREY[:2, ..., None])


PARTS = {"x_train": GREY[:15], "y_train": LABELS[:15], "x_test": GREY[15:], "y_test": LABELS[15:]}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": GREY}, "expected arrays x and y, or x_train"),
        ({"x": GREY.astype(np.float32)}, "expected pictures uint8"),
        ({"x": GREY[0]}, "expected pictures uint8"),
        ({"x": np.uint8(3)}, "expected pictures uint8"),
        ({"x": np.zeros((4, 5, 5, 2), np.uint8)}, "of 1, 3 or 4 channels"),
        ({"x": GREY[:1]}, "at least two pictures"),
        ({"x": GREY[:, :0]}, "at least two pictures"),
        ({"x": np.zeros((2, 300, 4), np.uint8)}, "256 pixels a side"),
        ({"x": GREY, "y": LABELS[:19]}, "20 pictures have 19 labels"),
        ({"x": GREY, "y": np.array(3)}, "labels must be whole numbers"),
        ({"x": GREY, "y": LABELS.astype(float)}, "labels must be whole numbers"),
        ({"x": GREY, "y": LABELS - 1}, "label -1 is out of range; there are"),
        ({"x": GREY, "y": LABELS, "names": ["a", "b"]}, "label 2 is out of range; there are 2 classes"),
        ({"x": GREY, "y": LABELS, "names": "abc"}, "names must be a list"),
        ({**PARTS, "x_test": GREY[15:, :5]}, "must be of one size"),
        ({**PARTS, "x_test": np.repeat(GREY[15:, ..., None], 3, 3)}, "must be of one size"),
        ({**PARTS, "x_test": GREY[15:].astype(float)}, "must be of one size"),
        ({**PARTS, "x_test": np.uint8(1), "x_train": np.uint8(1)}, "must be of one size"),
        ({**PARTS, "x_test": GREY[:0], "y_test": LABELS[:0]}, "pictures to train on and pictures to test on"),
        ({**PARTS, "y_train": LABELS[:14], "y_test": LABELS[14:]}, r"x_train has 15 pictures, y_train is \(14,\)"),
        ({**PARTS, "y_test": LABELS[15:, None]}, "x_test has 5 pictures"),
        ({name: PARTS[name] for name in ("x_train", "y_train", "x_test")}, "labels are needed for both parts"),
    ],
)
def test_bad_arrays(tmp_path, arrays, message):
    path = npz(tmp_path, **arrays)
    with pytest.raises(InputError, match=f"^{re.escape(str(path))}: .*{message}") as error:
        load_pictures(path)
    assert "\n" not in str(error.value)


def test_bad_files(tmp_path):
    path = tmp_path / "set.npz"
    with pytest.raises(InputError, match="no such file"):
        load_pictures(path)
    np.savez_compressed(path, x=COLOUR)
    whole = path.read_bytes()
    np.save(tmp_path / "one.npy", GREY)
    broken = bytearray(whole)
    broken[60:400] = bytes(340)
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as file:
        file.writestr("x.npy", b"no array")
    others = ((tmp_path / "one.npy").read_bytes(), (tmp_path / "other.zip").read_bytes())
    for data in (b"", b"not a picture", whole[:-30], bytes(broken), *others):
        path.write_bytes(data)
        with pytest.raises(InputError) as error:
            load_pictures(path)
        assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_bad_folders(tmp_path):
    with pytest.raises(InputError, match="there are no pictures in this folder"):
        load_pictures(tmp_path)
    folder = write_folder(tmp_path / "mixed", "a/1.png", "a/2.png")
    save_image(folder / "a" / "3.png", COLOUR[0, :5])
    with pytest.raises(InputError, match=r"3\.png: is \(5, 5, 3\), the first is \(6, 5, 3\); bring all to one size"):
        load_pictures(folder)
    save_image(folder / "a" / "3.png", GREY[0])
    with pytest.raises(InputError, match=r"3\.png: is \(6, 4, 1\)"):
        load_pictures(folder)
    (folder / "a" / "3.png").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"3\.png"):
        load_pictures(folder)
    with pytest.raises(InputError, match=r"1\.png: has no class, as other pictures have"):
        load_pictures(write_folder(tmp_path / "some", "1.png", "a/2.png"))


def test_bad_datasets():
    with pytest.raises(InputError, match="there are no pictures"):
        pictures_of([])
    with pytest.raises(InputError, match="picture 1: is"):
        pictures_of([(COLOUR[0], 0), (COLOUR[1, 1:], 0)])
    with pytest.raises(InputError, match="expected pictures of 8 bits or tensors"):
        pictures_of([(COLOUR[0].astype(np.int32), 0)] * 3)
    with pytest.raises(InputError, match="item 1 has no label"):
        pictures_of([(COLOUR[0], 0), (COLOUR[1], None)])
    with pytest.raises(InputError, match="label -1 is out of range"):
        pictures_of([(COLOUR[0], 0), (COLOUR[1], -1)])
