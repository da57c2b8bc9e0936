"""What a data set cannot teach, and masks that contradict labels; small sets whose counts are seen at a glance."""

from __future__ import annotations

from collections.abc import Sequence

from amn_ray.data.label_checks import review_labels, review_masks

CLASSES = ["cat", "dog", "hen"]


def masks(labels: Sequence[Sequence[int]], present: Sequence[Sequence[int]]) -> tuple[list[str], str | None]:
    return review_masks(labels, present, CLASSES, [f"im{n}" for n in range(len(labels))])


def test_a_sound_set_is_passed_without_a_word() -> None:
    labels = [[1], [2], [3], [1, 2]] * 5
    present = [[0, 1], [0, 2, 255], [0, 3], [0, 1, 2]] * 5
    assert review_labels(labels, CLASSES) == []
    assert masks(labels, present) == ([], None)
    assert masks([], []) == ([], None)


def test_a_class_in_every_image_is_told() -> None:
    [sentence] = review_labels([[1, 2], [1, 3], [1, 2], [1, 3]] * 5, CLASSES)
    assert "class cat is in every one of 20 images" in sentence
    [sentence] = review_labels([[1]] * 9, ["crack"])
    assert "class crack is in every one of 9 images" in sentence


def test_classes_in_a_handful_of_images_or_in_none_are_counted() -> None:
    few, none = review_labels([[1]] * 6 + [[2]] * 4, CLASSES)
    assert "fewer than 5 of 10 images" in few
    assert "dog (4)" in few
    assert "cat" not in few
    assert "no image has the class hen" in none
    assert "dataset.classes" in none


def test_a_set_without_labels_is_told() -> None:
    [sentence] = review_labels([[], [], []], CLASSES)
    assert "none of the 3 images has a label" in sentence


def test_masks_that_are_undefined_everywhere_are_counted() -> None:
    [sentence], refusal = masks([[1], [1], [2]], [[255], [0, 1], [255]])
    assert "2 of 3 masks, such as that of image 'im0', are 255" in sentence
    assert refusal is None


def test_an_object_that_undefined_pixels_may_hide_is_no_contradiction() -> None:
    assert masks([[1, 2]] * 10, [[0, 1, 255]] * 10) == ([], None)


def test_a_few_contradictions_are_told_with_an_example() -> None:
    labels = [[1], [2], [3]] * 4
    present: list[list[int]] = [[0, 1], [0, 2], [0, 3]] * 4
    present[4] = [0, 2, 3]
    present[5] = [0]
    (extra, lacking), refusal = masks(labels, present)
    assert "1 of 12 masks hold a class that labels lack, such as 'hen' (label 3) of image 'im4'" in extra
    assert "1 of 12 masks lack a class that labels name, such as 'hen' (label 3) of image 'im5'" in lacking
    assert refusal is None


def test_masks_numbered_in_another_order_are_refused_with_the_order_that_fits() -> None:
    labels = [[1], [2], [3], [1, 3]] * 3
    order = {1: 2, 2: 3, 3: 1}  # cat is 2 in masks, dog 3, hen 1
    _, refusal = masks(labels, [[0, *(order[label] for label in row)] for row in labels])
    assert refusal is not None
    assert "in 12 of 12 images labels and mask contradict one another, such as image 'im0'" in refusal
    assert "dataset.classes=[hen,cat,dog]" in refusal


def test_masks_of_one_value_are_refused_with_the_setting_for_black_and_white() -> None:
    _, refusal = masks([[1], [2], [3]] * 3, [[0, 1]] * 9)
    assert refusal is not None
    assert "all masks hold only 1: set dataset.mask_values=binary" in refusal


def test_masks_numbered_from_0_are_refused() -> None:
    labels = [[1], [2], [3]] * 4
    _, refusal = masks(labels, [[0] if row == [1] else [0, row[0] - 1] for row in labels])
    assert refusal is not None
    assert "dataset.classes" in refusal


def test_a_handful_of_contradictions_is_no_system_whatever_their_share() -> None:
    told, refusal = masks([[1]] * 5, [[0, 2]] * 5)
    assert refusal is None
    assert "5 of 5 masks hold a class that labels lack" in told[0]
    assert masks([[1]] * 6, [[0, 2]] * 6)[1] is not None
