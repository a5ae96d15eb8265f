import numpy as np
import pytest

from nnunetv2_xattnres.ablation.report.statistics import bootstrap_interval, bootstrap_intervals
from nnunetv2_xattnres.architectures.readers import Reader
from nnunetv2_xattnres.evaluation.labels import Labels
from nnunetv2_xattnres.routing_maps.analysis import Analysis
from nnunetv2_xattnres.routing_maps.colours import class_colours, entry_colours, rgb
from nnunetv2_xattnres.routing_maps.partitions import AWAY, BOUNDARY, BY_DISTANCE, EVERYWHERE
from nnunetv2_xattnres.routing_maps.summary import HELD, REVERSED, UNDECIDED, StageSums, claims, splits
from nnunetv2_xattnres.routing_maps.tables import (
    Results,
    claim_sentence,
    knock_out_csv,
    tables,
    weights_csv,
    without_minus_zero,
)
from nnunetv2_xattnres.visualization.overlay import CLASS_COLOURS

READER = Reader("decoder 1", "up.0", ("encoder 1", "encoder 2", "current"), (8, 8), (1.0, 4.0, 4.0))
GROUPS = {EVERYWHERE: {EVERYWHERE: (0,)}, BY_DISTANCE: {"far inside": (0,), BOUNDARY: (1,), AWAY: (0,)}}


def case(fine_at_boundary, fine_away, pixels=(10, 5)):
    """Mean weights of the fine entry; the rest goes to the coarse one."""
    rows = np.array([[fine_away, 1 - fine_away, 0], [fine_at_boundary, 1 - fine_at_boundary, 0]])
    counts = np.array(pixels)
    sums = rows * counts[:, None]
    return {
        "up.0": StageSums(
            {EVERYWHERE: sums.sum(0, keepdims=True), BY_DISTANCE: sums},
            {EVERYWHERE: counts[:1] + counts[1:], BY_DISTANCE: counts},
            0.5,
        )
    }


def results(cases, dice=()):
    analysis = Analysis([READER], None, "pixels", (2.0, 5.0, 10.0, 20.0))
    analysis.names = [f"case {number}" for number in range(len(cases))]
    analysis.cases, analysis.groups, analysis.dice = cases, GROUPS, list(dice)
    return Results.of(analysis)


def test_every_case_counts_the_same():
    split = splits([READER], GROUPS, [case(1, 1, (1, 1)), case(0, 0, (1000, 1000))])[0]
    assert [value.mean for value in split.weights] == pytest.approx([0.5, 0.5, 0])
    assert (split.cases, split.pixels) == (2, 2002)


def test_the_claim_is_in_octaves_and_held_reversed_or_open():
    held = [case(0.9, 0.4 + 0.01 * n) for n in range(8)]
    claim, single = claims([READER], GROUPS, held)
    assert claim.difference.mean == pytest.approx(-2 * np.mean([0.5 - 0.01 * n for n in range(8)]))
    assert claim.reading == HELD and single[0].stage == "decoder 1"
    assert claims([READER], GROUPS, [case(0.4 + 0.01 * n, 0.9) for n in range(8)])[0].reading == REVERSED
    assert claims([READER], GROUPS, [case(0.5 + 0.1 * (-1) ** n, 0.5) for n in range(8)])[0].reading == UNDECIDED
    assert claims([READER], GROUPS, held[:6])[0].reading == HELD
    assert claims([READER], GROUPS, held[:5])[0].reading == UNDECIDED  # one sign in five cases is chance


def test_the_sentence_says_number_interval_and_cases():
    sentence = claim_sentence(results([case(0.9, 0.4 + 0.01 * n) for n in range(8)]))
    assert sentence.startswith("The paper's claim held: in the decoder stages together, pixels up to 2 pixels from a")
    assert "octaves of resolution finer than pixels over 5 pixels away (95 % interval -" in sentence
    assert "8 cases" in sentence
    hardly = claim_sentence(results([case(0.5 + 1e-5 * n, 0.5 + 1e-5 * n + 1e-6) for n in range(8)]))
    assert "on average less than 0.001 octaves" in hardly and "interval +0.000 to +0.000" in hardly
    nothing = claim_sentence(results([case(0.5, 0.5, (10, 0))]))
    assert nothing.startswith("The paper's claim cannot be looked at: no case has both")


def test_a_group_that_a_case_lacks_is_left_out_of_its_mean():
    found = {item.group: item for item in splits([READER], GROUPS, [case(0.8, 0.2, (10, 0)), case(0.6, 0.4)])}
    assert found[BOUNDARY].cases == 1
    assert found[BOUNDARY].weights[0].mean == pytest.approx(0.6)
    assert np.isnan(found[BOUNDARY].weights[0].low)


def test_knock_out_is_a_difference_of_means_over_classes():
    whole = np.array([0.8, np.nan])
    without = {"up.0": np.array([[0.6, np.nan], [0.8, np.nan], [0.9, np.nan]])}
    found = results([case(1, 0)], [(whole, without)])
    assert [value.mean for value in found.knock_out["up.0"]] == pytest.approx([-0.2, 0, 0.1])
    assert knock_out_csv(found).splitlines()[1].startswith("decoder 1,encoder 1,-0.2,,,1")
    assert any("without an entry" in table.title for table in tables(found))


def test_tables_have_as_many_cells_as_columns_and_csv_has_every_entry():
    found = results([case(0.9, 0.4), case(0.8, 0.3)])
    for table in tables(found):
        assert all(len(row) == len(table.header) for row in table.rows), table.title
    lines = weights_csv(found).splitlines()
    assert len(lines) == 1 + 3 * (1 + 3)  # entries times groups
    assert "knock" not in " ".join(table.title for table in tables(found))


def test_classes_have_the_colours_of_their_label_values():
    labels = Labels({"whole": (1, 2), "core": (2,)}, frozenset({0, 1, 2, 3}), ignore=3)
    found = class_colours(labels)
    assert list(found) == ["label 1", "core"]
    assert [rgb(colour) for colour in found.values()] == [tuple(map(int, colour)) for colour in CLASS_COLOURS[:2]]


def test_no_table_says_minus_zero():
    assert [without_minus_zero(text) for text in ("-0.00", "+0.0", "-0.01", "-10.0", "0")] == [
        "+0.00", "+0.0", "-0.01", "-10.0", "0",
    ]  # fmt: skip


def test_intervals_of_columns_are_those_of_each_by_itself():
    values = np.random.default_rng(0).normal(size=(12, 3))
    values[3, 1] = np.nan
    low, high = bootstrap_intervals(values)
    for column in range(3):
        assert (low[column], high[column]) == pytest.approx(bootstrap_interval(values[:, column : column + 1]))


def test_colours_are_different_and_go_from_dark_to_light():
    encoder = tuple(f"encoder {n}" for n in range(1, 8))
    decoder = tuple(f"decoder {n}" for n in range(1, 6))
    strides = (*(2.0**n for n in range(7)), *(2.0**n for n in range(5, 0, -1)), 1.0)
    colours = entry_colours([Reader("decoder 6", "x", (*encoder, *decoder, "current"), (8, 8), strides)])
    assert len(set(colours.values())) == 13
    light = {entry: sum(bytes.fromhex(colour[1:])) for entry, colour in colours.items()}
    assert [light[entry] for entry in encoder] == sorted(light[entry] for entry in encoder)
    assert [light[entry] for entry in decoder] == sorted((light[entry] for entry in decoder), reverse=True)
