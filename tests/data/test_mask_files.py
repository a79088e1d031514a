from __future__ import annotations

from raybench.data.mask_files import AssignedMasks, assign_masks, masks_beside_images, png_masks_of_jpegs


def reasons(found: AssignedMasks) -> dict[str, str]:
    return {reject.path: reject.reason for reject in found.rejects}


def test_a_mask_belongs_to_one_image() -> None:
    found = assign_masks({"ng/0.png": "ng/0", "ng/0.jpg": "ng/0"}, {"masks/0.png": ("ng/0",)})
    assert found.keys == {}
    assert reasons(found) == {"masks/0.png": "mask_ambiguous"}
    assert "ng/0.jpg and ng/0.png" in found.rejects[0].detail


def test_an_image_has_one_mask() -> None:
    masks = {"m/0.png": ("ng/0",), "m/0_mask.png": ("ng/0_mask",), "m/0/a.png": ("ng/0/a",)}
    found = assign_masks({"ng/0.png": "ng/0"}, masks)
    assert found.keys == {"ng/0.png": ("m/0_mask.png",)}
    assert reasons(found) == {"m/0.png": "mask_unused", "m/0/a.png": "mask_unused"}
    found = assign_masks({"ng/0.png": "ng/0"}, {"m/0.png": ("ng/0",), "m/0.bmp": ("ng/0",)})
    assert found.keys == {}
    assert reasons(found) == {"m/0.png": "mask_ambiguous", "m/0.bmp": "mask_ambiguous"}


def test_the_name_of_an_image_may_end_like_that_of_a_mask() -> None:
    found = assign_masks({"ng/0_mask.png": "ng/0_mask"}, {"m/0_mask.png": ("ng/0_mask",)})
    assert found.keys == {"ng/0_mask.png": ("m/0_mask.png",)}


def test_masks_beside_their_images() -> None:
    images = {"ng/a.jpg": "ng/a", "ng/a_label.bmp": "ng/a_label", "ng/b_label.png": "ng/b_label"}
    assert masks_beside_images(images) == {"ng/a_label.bmp"}
    jpegs = {"ng/a.jpg": "ng/a", "ng/a.png": "ng/a", "ng/x/b.png": "ng/x/b", "ng/x/b.jpeg": "ng/x/b"}
    assert png_masks_of_jpegs(jpegs) == {"ng/a.png", "ng/x/b.png"}
    assert png_masks_of_jpegs(jpegs | {"ng/c.png": "ng/c"}) == {"ng/x/b.png"}
