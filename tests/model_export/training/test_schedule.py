"""Tests of the learning-rate schedules."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facecluster.errors import InputError
from facecluster.model_export.training.schedule import Schedule, read_schedule


def schedule_of(folder, text: str) -> Schedule:
    (folder / "rates.txt").write_text(text)
    return read_schedule(str(folder / "rates.txt"))


def test_reads_the_published_format(tmp_path):
    schedule = schedule_of(
        tmp_path,
        "# Learning rate schedule\n# Maps an epoch number to a learning rate\n"
        "0:  0.05\n100: 0.005  # slower\n\n  200:0.0005\n276: -1\n",
    )
    epochs = [0, 1, 99, 100, 199, 200, 275]
    rates = [0.05, 0.05, 0.05, 0.005, 0.005, 0.0005, 0.0005]
    assert [schedule.rate(epoch) for epoch in epochs] == rates
    assert schedule.n_epochs(500) == 276
    assert schedule.n_epochs(276) == 276
    assert schedule.n_epochs(90) == 90


@pytest.mark.parametrize("end", ["-1", "-", " - # enough", "0", "-0.5", "-1\n9: 0.1", "-\n9:-"])
def test_rates_that_end_a_training(tmp_path, end):
    schedule = schedule_of(tmp_path, f"0: 0.1\n7:{end}\n")
    assert schedule.n_epochs(500) == 7
    assert schedule.n_epochs(5) == 5


def test_schedule_without_an_end_allows_any_number_of_epochs(tmp_path):
    assert schedule_of(tmp_path, "0: 0.1\n65: 0.01\n").n_epochs(500) == 500


@settings(deadline=None)
@given(
    st.dictionaries(st.integers(1, 50), st.floats(1e-6, 1e3), max_size=6),
    st.floats(1e-6, 1e3),
    st.integers(0, 60),
)
def test_rate_holds_until_the_next_step(tmp_path_factory, later, first_rate, epoch):
    rates = {0: first_rate, **dict(sorted(later.items()))}
    text = "".join(f"{first}: {rate!r}\n" for first, rate in rates.items())
    schedule = schedule_of(tmp_path_factory.getbasetemp(), text)
    while epoch not in rates:
        epoch -= 1
    assert schedule.rate(epoch) == rates[epoch]


@pytest.mark.parametrize("line", ["5 0.1", "5: fast", "five: 0.1", "5:", "5: nan", "5: inf", ": 1"])
def test_error_names_the_malformed_line(tmp_path, line):
    with pytest.raises(InputError) as refusal:
        schedule_of(tmp_path, f"# rates\n0: 0.1\n{line} # why\n")
    path = tmp_path / "rates.txt"
    assert str(refusal.value) == f"{path} line 3: expected `epoch: rate`, found '{line} # why'"


@pytest.mark.parametrize("epoch", [9, 10])
def test_epochs_must_ascend(tmp_path, epoch):
    with pytest.raises(
        InputError, match=rf"rates\.txt line 3: epoch {epoch} comes after epoch 10: list"
    ):
        schedule_of(tmp_path, f"0: 0.1\n10: 0.01\n{epoch}: 0.05\n")


@pytest.mark.parametrize(
    "text", ["", "# nothing yet\n", "1: 0.1\n", "-1: 0.1\n", "0: -1\n", "0: 0"]
)
def test_schedule_must_start_with_a_rate_for_epoch_0(tmp_path, text):
    with pytest.raises(
        InputError, match=r"rates\.txt: a .*must start with a positive rate for epoch 0"
    ):
        schedule_of(tmp_path, text)


def test_unreadable_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"none\.txt cannot be read: .*No such file"):
        read_schedule(str(tmp_path / "none.txt"))
    (tmp_path / "picture.jpg").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(InputError, match=r"picture\.jpg cannot be read: 'utf-8"):
        read_schedule(str(tmp_path / "picture.jpg"))
