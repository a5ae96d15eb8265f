from nnunetv2_xattnres.errors import InputError, folded


def test_equal_problems_are_folded_with_their_count_and_three_examples():
    problems = [f"/data/{number}.png: holds 0 and 1" for number in range(2750)] + ["/data/x.png: is missing"]
    error = InputError("Nothing was written.", problems)
    assert str(error).splitlines() == [
        "Nothing was written.",
        "  - holds 0 and 1 (2750 times: /data/0.png, /data/1.png, /data/2.png and 2747 more)",
        "  - /data/x.png: is missing",
    ]
    assert error.problems == problems


def test_names_inside_the_text_do_not_keep_equal_problems_apart():
    lines = folded([f"box_{number}: prediction box_{number}.nii.gz cannot be used: cut off" for number in range(9)])
    assert lines == ["prediction NAME.nii.gz cannot be used: cut off (9 times: box_0, box_1, box_2 and 6 more)"]
    assert len(folded([f"{number}.png has no reference" for number in range(9)])) == 1
    assert len(folded([f"{number}.png has no reference" for number in range(3)])) == 3
